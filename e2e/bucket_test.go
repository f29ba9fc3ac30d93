package e2e

import (
	"bytes"
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bucketValues reads every value of every bucket of a site with nats.go alone, as
// anybody with access to the bus could.
func bucketValues(t *testing.T, address string) map[string][]byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	nc, err := nats.Connect("nats://" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]byte{}
	for _, bucket := range []string{"keytide_keys_main_e1", "keytide_hosts_main_e1"} {
		kv, err := js.KeyValue(ctx, bucket)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := kv.ListKeys(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for key := range keys.Keys() {
			entry, err := kv.Get(ctx, key)
			if err != nil {
				t.Fatalf("%s %s: %v", bucket, key, err)
			}
			values[bucket+" "+key] = entry.Value()
		}
	}
	return values
}

// checkBucketHoldsNoSecret reads the site's buckets as a stranger with a NATS
// client, while they are in use.
func checkBucketHoldsNoSecret(t *testing.T, s *site, secrets [][]byte) {
	t.Helper()
	values := bucketValues(t, s.nats)
	for _, want := range []string{"keytide_keys_main_e1 head", "keytide_keys_main_e1 log.1", "keytide_keys_main_e1 ring.sso", "keytide_hosts_main_e1 log.1"} {
		if values[want] == nil {
			t.Errorf("%s is not in the bucket", want)
		}
	}
	for key, value := range values {
		for i, secret := range secrets {
			for form, spelling := range spellings(secret) {
				if bytes.Contains(value, spelling) {
					t.Errorf("%s holds the bytes of secret %d in spelling %d", key, i, form)
				}
			}
		}
	}
}
