package server

import (
	"strings"
	"testing"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/replication/bus"
)

func TestUsersFileNamesEveryFault(t *testing.T) {
	_, nkey, err := bus.NewSeed()
	if err != nil {
		t.Fatal(err)
	}
	users, err := parseUsers("# a comment\n\n" + nkey + " writer eu-1 # the founder\n")
	if err != nil || len(users) != 1 || users[0] != (coreUser{nkey: nkey, writes: true, server: "eu-1"}) {
		t.Errorf("parseUsers = %+v, %v", users, err)
	}
	_, err = parseUsers(nkey + " reader us-1\n" + nkey + " admin EU\nUABC writer x\n" + nkey)
	if err == nil {
		t.Fatal("a broken file: no error")
	}
	for _, want := range []string{`line 2: role "admin"`, `line 2: server "EU"`, "line 2: the nkey of server EU stands there twice", `line 3: nkey "UABC"`, "line 4: want NKEY"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
}

// TestGrants: a reader may not write, and nobody may touch another bucket.
func TestGrants(t *testing.T) {
	s := &site{id: identity{Store: "main", Epoch: 1}}
	granted := s.grants([]coreUser{{"UW", true, "w"}, {"UR", false, "r"}, {"UF", true, "f"}}, func(u coreUser) bool { return u.server == "f" })
	if len(granted) != 2 {
		t.Fatalf("granted = %+v, want all but the forgotten one", granted)
	}
	for i, writes := range []bool{true, false} {
		for _, kind := range []events.Kind{events.Keys, events.Hosts} {
			bucket := events.BucketName(kind, "main", 1)
			all := strings.Join(granted[i].Publish, " ")
			if strings.Contains(all, events.Subjects(bucket)) != writes || !strings.Contains(all, "STREAM.INFO."+events.StreamName(bucket)) {
				t.Errorf("%s may publish to %s", granted[i].Nkey, all)
			}
		}
	}
}

// TestUserOfAServerThatIsGone: an nkey in the users file does not come back with its
// server's id, under which another server has joined.
func TestUserOfAServerThatIsGone(t *testing.T) {
	listed := coreUser{nkey: "UOLD", writes: true, server: "ps-2"}
	for name, tc := range map[string]struct {
		member events.Member
		want   bool
	}{
		"no member yet":             {events.Member{}, false},
		"founded, by the file":      {events.Member{ID: "ps-2"}, false},
		"joined with this nkey":     {events.Member{ID: "ps-2", Nkey: "UOLD"}, false},
		"forgotten":                 {events.Member{ID: "ps-2", Forgotten: 7}, true},
		"forgotten, with this nkey": {events.Member{ID: "ps-2", Nkey: "UOLD", Forgotten: 7}, true},
		"joined anew with another":  {events.Member{ID: "ps-2", Nkey: "UNEW"}, true},
	} {
		if got := userIsGone(listed, tc.member); got != tc.want {
			t.Errorf("%s: gone = %v, want %v", name, got, tc.want)
		}
	}
}
