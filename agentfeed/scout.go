package agentfeed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// newer is by how much another server's proof must be later than the one held for
// a move to it: less is the network's chance.
const newer = time.Second

// scout looks, while s is fed by a server that is stale for longer than patience,
// for one that knows of a later time that the rings were current. It ends s with
// errMoved when it has found one. Until the channel that it returns is closed it
// runs, at most until ctx ends.
func (s *session) scout(ctx context.Context, end context.CancelCauseFunc, patience time.Duration) <-chan struct{} {
	done := make(chan struct{})
	random := rand.New(rand.NewPCG(s.follower.random.Uint64(), s.follower.random.Uint64()))
	known := make(map[string]*server) // its own: the follower's are the follower's
	go func() {
		defer close(done)
		for {
			wait := s.client.untilStale() + patience
			if wait <= 0 {
				if better := s.look(ctx, known); better != "" {
					s.outcome.better = better
					end(errMoved)
					return
				}
				wait = between(pollInterval*4/5, pollInterval*6/5, random)
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

// look asks the other servers, and returns the first whose proof is newer. What
// they tell is taken over.
func (s *session) look(ctx context.Context, known map[string]*server) (better string) {
	urls, _ := s.client.known()
	for _, url := range urls {
		if url == s.server.url || ctx.Err() != nil {
			continue
		}
		if known[url] == nil {
			known[url] = &server{url: url}
		}
		before := s.client.provedAt()
		err := s.glance(ctx, known[url])
		if err == nil && s.client.provedAt().Sub(before) > newer {
			return url
		}
		s.client.log.Debug("no newer proof", "url", url, "err", err)
	}
	return ""
}

// glance polls a server once.
func (s *session) glance(ctx context.Context, at *server) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := session{client: s.client, http: s.http, server: at}
	g.watchdog = time.AfterFunc(headTimeout, func() { cancel(errSilent) })
	defer g.watchdog.Stop()
	_, err := g.poll(ctx, 0, nil)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return fmt.Errorf("%s: %w", at.url, errSilent)
	}
	return err
}

// untilStale is the time until the rings are stale; negative when they are, and
// long while there are none or there is but one server.
func (c *Client) untilStale() time.Duration {
	servers, _ := c.known()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready || len(servers) < 2 {
		return time.Minute
	}
	return c.staleAfter - time.Since(c.proof)
}

// provedAt is when the rings were last known to be current.
func (c *Client) provedAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proof
}
