// Command bench measures the numbers that Keytide has to reach, each beside the
// bare operation that it is compared with, in one process and in turns, so that a
// busy machine slows both.
//
// Policy servers with thousands of agents are processes of their own, beside a bare
// server of TLS. They need Linux, the go command, and a file descriptor an agent:
// --agents 1000,10000,40000 shows how the cost grows, --dead 1 what one per cent of
// agents that read nothing does to the others.
//
// Usage: go run ./e2e/bench [--rows a,b] [--json] [--agents 10000] [--dead 0]
//
// It exits 0 whether or not goals are met, 1 if a row could not be measured, and 2
// on misuse.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
