package cli_test

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
)

// overwrite is what anybody does who reaches the bus.
func overwrite(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: overwrite ADDR BUCKET KEY")
	}
	nc, err := nats.Connect(args[0])
	ts.Check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	bucket, err := js.KeyValue(ctx, args[1])
	ts.Check(err)
	_, err = bucket.Put(ctx, args[2], []byte("forged at "+time.Now().String()))
	ts.Check(err)
}
