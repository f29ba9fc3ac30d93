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
// for one that knows of a later time that the rings were current; and, while s is fed
// from another region, for a server of the agent's own. It ends s with errMoved or
// errHome when it has found one. Until the channel that it returns is closed it runs,
// at most until ctx ends.
func (s *session) scout(ctx context.Context, end context.CancelCauseFunc, patience time.Duration) <-chan struct{} {
	done := make(chan struct{})
	random := rand.New(rand.NewPCG(s.follower.random.Uint64(), s.follower.random.Uint64()))
	known := make(map[string]*server) // its own: the follower's are the follower's
	go func() {
		defer close(done)
		var again time.Time // after a look that found none
		home := time.Now().Add(between(homeward*4/5, homeward*6/5, random))
		for {
			better, found := "", error(nil)
			switch now := time.Now(); {
			case !now.Before(home):
				better, found = s.lookHome(ctx, known), errHome
				home = time.Now().Add(between(homeward*4/5, homeward*6/5, random))
			case s.client.untilStale()+patience <= 0 && !now.Before(again):
				better, found = s.look(ctx, known), errMoved
				again = time.Now().Add(between(pollInterval*4/5, pollInterval*6/5, random))
			}
			if better != "" {
				s.outcome.better = better
				end(found)
				return
			}
			wait := max(s.client.untilStale()+patience, time.Until(again), time.Millisecond)
			select {
			case <-time.After(min(wait, max(time.Until(home), time.Millisecond))):
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
		_, err := s.glance(ctx, known[url])
		if err == nil && s.client.provedAt().Sub(before) > newer {
			return url
		}
		s.client.log.Debug("no newer proof", "url", url, "err", err)
	}
	return ""
}

// glance polls a server once, and returns what that proved.
func (s *session) glance(ctx context.Context, at *server) (time.Time, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := session{client: s.client, http: s.http, server: at}
	g.watchdog = time.AfterFunc(headTimeout, func() { cancel(errSilent) })
	defer g.watchdog.Stop()
	_, err := g.poll(ctx, 0, nil)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = fmt.Errorf("%s: %w", at.url, errSilent)
	}
	return g.asOf, err
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
