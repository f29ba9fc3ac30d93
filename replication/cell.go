package replication

import (
	"context"
	"sync"
)

// A cell holds a number that only rises, and wakes who waits for it. The signal is
// the level: a slow waiter skips values and never misses the latest.
type cell[T ~uint64] struct {
	mu      sync.Mutex // guards the fields below
	value   T
	changed chan struct{} // nil while nobody watches
}

// watch returns the value and a channel that is closed when it has risen.
func (c *cell[T]) watch() (T, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.value, c.changed
}

func (c *cell[T]) load() T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

func (c *cell[T]) raise(v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v <= c.value {
		return
	}
	c.value = v
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// await waits until the value is at least want, or ctx ends.
func (c *cell[T]) await(ctx context.Context, want T) error {
	for {
		v, changed := c.watch()
		if v >= want {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
