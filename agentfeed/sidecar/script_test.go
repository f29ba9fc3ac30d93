package sidecar_test

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/agentfeed/sidecar"
)

// TestScripts runs testdata/script. The command agent runs the program within the
// test; code N says which exit code it had.
func TestScripts(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	hostFile := server.WriteHostFile("web-1")
	content, err := os.ReadFile(hostFile)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("FEED", server.URL())
			return os.WriteFile(env.WorkDir+"/web-1.yaml", content, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// agent CODE ARGS... runs the program and wants this exit code.
			"agent": func(ts *testscript.TestScript, _ bool, args []string) {
				var out, talk bytes.Buffer
				wd := ts.Getenv("WORK")
				for i := range args {
					if _, err := os.Stat(wd + "/" + args[i]); err == nil {
						args[i] = wd + "/" + args[i]
					}
				}
				code := sidecar.Main(context.Background(), sidecar.Env{Args: args[1:], Stdout: &out, Stderr: &talk, Version: "v0.0.0-test"})
				ts.Stdout().Write(out.Bytes())
				ts.Stderr().Write(talk.Bytes())
				if got := string(rune('0' + code)); got != args[0] {
					ts.Fatalf("exit code %s, want %s", got, args[0])
				}
			},
		},
	})
}
