package server

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

func leaveOut(force bool) adminapi.LeaveOut {
	return adminapi.LeaveOut{Intent: adminapi.Intent{Request: ulid.Make().String(), Reason: "test"}, Force: force}
}

// The only member is neither excluded without force nor ever forgotten.
func TestTheLastServerIsNotLeftOut(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	defer r.stop()
	shown, err := r.service.ServerShown(t.Context(), "dev-1")
	if err != nil || shown.Exclude.Allowed || shown.Forget.Allowed || shown.Forget.Refused.Name() != "refused" || len(shown.Exclude.Effects) == 0 {
		t.Errorf("ServerShown = %+v, %v", shown, err)
	}
	if _, err := r.service.ExcludeServer(t.Context(), "eva", "dev-1", leaveOut(false)); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("ExcludeServer = %v, want refused", err)
	}
	for _, force := range []bool{false, true} {
		if _, err := r.service.ForgetServer(t.Context(), "eva", "dev-1", leaveOut(force)); !errors.Is(err, keystore.ErrRefused) {
			t.Errorf("ForgetServer = %v, want refused", err)
		}
	}
	for _, call := range []func() error{
		func() error { _, err := r.service.ServerShown(t.Context(), "ps-9"); return err },
		func() error {
			_, err := r.service.ExcludeServer(t.Context(), "eva", "ps-9", leaveOut(true))
			return err
		},
		func() error { _, err := r.service.ForgetServer(t.Context(), "eva", "ps-9", leaveOut(true)); return err },
	} {
		if err := call(); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("of a stranger: %v, want not found", err)
		}
	}
}
