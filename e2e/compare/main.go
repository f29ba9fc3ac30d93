// Command compare measures sealing and opening of cookie tokens beside three
// libraries that others use for the same: gorilla/securecookie, tink-go and go-jose.
// It is a module of its own, so that nobody else needs those.
//
// Usage: go -C e2e/compare run .
//
// All seal with AES-256 the same bytes into text that a cookie may hold; the key is of
// a ring of eight. They do not promise the same: only keytide and securecookie bind the
// cookie's name and check an age. All run in turns, in many short rounds, of which the
// quickest is shown: whatever else the machine does only adds. Keytide's one allocation
// is for a string, as the others return one.
package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"text/tabwriter"
)

// keys is how many keys each ring has.
const keys = 8

// rounds is how often each figure is measured; the quickest counts.
const rounds = 60

// sizes are the payloads', in bytes.
var sizes = []int{64, 256, 1024}

// A contender seals under the newest of its keys and opens with all of them.
type contender struct {
	name string
	// seal returns a token; of an old key if old is set.
	seal func(payload []byte, old bool) (token string, err error)
	open func(token string) (payload []byte, err error)
}

// A figure is one cell of the table.
type figure struct{ ns, allocs int64 }

func main() {
	testing.Init()
	period := flag.String("period", "5ms", "`time` of each measurement")
	flag.Parse()
	if err := flag.Set("test.benchtime", *period); err != nil {
		fail(err)
	}
	contenders, err := all()
	if err != nil {
		fail(err)
	}
	fmt.Printf("%s, %s/%s, %d CPUs\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "library\tbytes\ttoken\tseal ns\tallocs\topen ns\tallocs\topen with the oldest key ns\tallocs")
	for _, size := range sizes {
		if err := rows(table, contenders, size); err != nil {
			fail(err)
		}
	}
	if err := table.Flush(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}

// rows measures all contenders in turns with payloads of one size.
func rows(table *tabwriter.Writer, contenders []contender, size int) error {
	payload := bytes.Repeat([]byte("p"), size)
	figures := make([][3][]figure, len(contenders))
	tokens := make([]string, len(contenders))
	for range rounds {
		for i, c := range contenders {
			token, old, err := c.tokens(payload)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			tokens[i] = token
			for j, run := range []func() error{
				func() error { _, err := c.seal(payload, false); return err },
				func() error { _, err := c.open(token); return err },
				func() error { _, err := c.open(old); return err },
			} {
				figures[i][j] = append(figures[i][j], measure(run))
			}
		}
	}
	for i, c := range contenders {
		fmt.Fprintf(table, "%s\t%d\t%d", c.name, size, len(tokens[i]))
		for _, f := range figures[i] {
			m := quickest(f)
			fmt.Fprintf(table, "\t%d\t%d", m.ns, m.allocs)
		}
		fmt.Fprintln(table)
	}
	return nil
}

// tokens seals payload under the newest and the oldest key, and checks that both open.
func (c contender) tokens(payload []byte) (token, old string, err error) {
	for i, out := range []*string{&token, &old} {
		if *out, err = c.seal(payload, i == 1); err != nil {
			return "", "", err
		}
		back, err := c.open(*out)
		if err != nil {
			return "", "", err
		}
		if !bytes.Equal(back, payload) {
			return "", "", fmt.Errorf("opened %d bytes other than the %d sealed", len(back), len(payload))
		}
	}
	return token, old, nil
}

func measure(run func() error) figure {
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	return figure{result.NsPerOp(), result.AllocsPerOp()}
}

func quickest(f []figure) figure {
	return slices.MinFunc(f, func(a, b figure) int { return cmp.Compare(a.ns, b.ns) })
}
