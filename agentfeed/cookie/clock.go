package cookie

import (
	"sync/atomic"
	"time"
)

// tick is how far behind a clock may be. While tokens are sealed or opened it costs
// four wake-ups a second.
const tick = 250 * time.Millisecond

// A clock tells the Unix second without asking the kernel for each token, which
// would cost a quarter of a small one: a timer keeps the second while the clock is
// in use and ends when it has not been for a tick. The zero clock works.
type clock struct {
	second atomic.Int64 // 0: the timer does not run
	used   atomic.Bool  // since the timer last fired
}

func (c *clock) now() int64 {
	s := c.second.Load()
	if s == 0 {
		return c.start()
	}
	if !c.used.Load() { // read first: writing would take the line from other cores
		c.used.Store(true)
	}
	return s
}

func (c *clock) start() int64 {
	s := time.Now().Unix()
	if c.second.CompareAndSwap(0, s) {
		time.AfterFunc(tick, c.fire)
	}
	return s
}

func (c *clock) fire() {
	if !c.used.Swap(false) {
		c.second.Store(0)
		return
	}
	c.second.Store(time.Now().Unix())
	time.AfterFunc(tick, c.fire)
}
