package hub

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestFailuresAreBoundedByAddress(t *testing.T) {
	at := func(remote string) *http.Request { return &http.Request{RemoteAddr: remote} }
	f, now := newFailures(), time.Now()
	for i := range maxFailures {
		if f.note(addressOf(at(fmt.Sprintf("192.0.2.1:%d", i))), now) {
			t.Fatalf("failure %d is too many", i+1)
		}
	}
	for remote, want := range map[string]bool{
		"192.0.2.1:9": true, "[::ffff:192.0.2.1]:9": true, "192.0.2.2:9": false, "[2001:db8::1]:9": false, "no address": false,
	} {
		if got := f.note(addressOf(at(remote)), now); got != want {
			t.Errorf("%s: too many = %v, want %v", remote, got, want)
		}
	}
	if addressOf(at("[2001:db8::1]:1")) != addressOf(at("[2001:db8::ffff:2]:1")) || addressOf(at("[2001:db8::1]:1")) == addressOf(at("[2001:db8:0:1::1]:1")) {
		t.Error("IPv6 addresses are not told apart by their networks")
	}
	if f.note(addressOf(at("192.0.2.1:9")), now.Add(failureSpan)) {
		t.Error("failures count after their span")
	}
	for i := range 2 * maxAddresses {
		f.note(addressOf(at(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255))), now.Add(failureSpan))
	}
	if len(f.count) > maxAddresses+1 {
		t.Errorf("%d addresses are remembered, want at most %d", len(f.count), maxAddresses+1)
	}
}
