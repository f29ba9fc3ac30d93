package server

import "context"

// forgotten reports whether the server knows that it was forgotten in either ledger.
func (s *site) forgotten() bool {
	return s.keys.Standing().Forgotten != 0 || s.hosts.Standing().Forgotten != 0
}

// watchStanding ends the feed when the server learns that it was forgotten. The
// server goes on, so that its status says why.
func (s *site) watchStanding(ctx context.Context) error {
	for {
		_, keys := s.keys.Replica().Watch()
		_, hosts := s.hosts.Replica().Watch()
		if s.forgotten() {
			return s.closeForgotten(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-keys:
		case <-hosts:
		}
	}
}

// closeForgotten closes the feed if the server was forgotten: agents that are
// connected go elsewhere, and those that come are told to.
func (s *site) closeForgotten(ctx context.Context) error {
	if !s.forgotten() {
		return nil
	}
	s.log.Error("this server was forgotten: it feeds nothing until it has been invited anew")
	s.ready.Store(false)
	deadline, cancel := context.WithTimeout(ctx, stopLimit/2)
	defer cancel()
	if err := s.hub.Close(deadline); err != nil && ctx.Err() == nil {
		s.log.Warn("agents were cut off", "err", err)
	}
	return nil
}
