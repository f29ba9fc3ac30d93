// Keytide-agent is the sidecar: it keeps a trusted host's rings in files for
// programs that do not use the SDK.
package main

import (
	"context"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/keytide/keytide/agentfeed/sidecar"
)

func main() {
	// The first signal stops in order; from then on a second one kills.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	socket := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET") // it is not for the actions that the agent runs
	os.Exit(sidecar.Main(ctx, sidecar.Env{
		Args:         os.Args[1:],
		Stdout:       os.Stdout,
		Stderr:       os.Stderr,
		Proxy:        http.ProxyFromEnvironment,
		NotifySocket: socket,
		Version:      version(),
	}))
}

// version is the module's, as the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
