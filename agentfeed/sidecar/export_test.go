package sidecar

import (
	"bytes"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/keystore"
)

// Render gives the content of a file of a built-in format, or of a template.
func Render(f File, sets ...*keystore.KeySet) (string, error) {
	if f.Template == "" {
		f.render = formats[f.Format]
	} else {
		var err error
		if f.render, err = parseTemplate(f.Template); err != nil {
			return "", err
		}
	}
	var w bytes.Buffer
	err := f.render(&w, &f, source{agentfeed.Status{State: agentfeed.StateFresh, Server: "ps-1"}, sets})
	return w.String(), err
}

// Exit is the exit code of keytide-agent status for a report.
func Exit(r Report) int { return r.exit() }
