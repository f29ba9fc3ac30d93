package agentfeed

import "time"

// A Transport is how the feed reaches the agent.
type Transport string

const (
	TransportStream   Transport = "stream"
	TransportLongPoll Transport = "longpoll" // polls that the server answers when something changes
	TransportPoll     Transport = "poll"     // polls every Config.PollInterval
)

const (
	longWait  = 25 * time.Second // what a long poll asks for
	leastWait = 5 * time.Second
	earlyCut  = 10 * time.Second // a long poll that is cut earlier tells that they do not pass
	noStreams = 10 * time.Minute // from one attempt to stream, where that failed, to the next
)

// A server is what an agent remembers of one server, with the proxies before it.
type server struct {
	url    string
	offset time.Duration // its clock less this machine's, as a clock-skew problem told

	polled time.Time     // until then streams are not tried
	short  int           // streams in a row that died before their second heartbeat
	wait   time.Duration // what a long poll asks for; 0: longWait
	early  int           // long polls in a row that did not get through
}

// transport is the best that is not known to fail.
func (s *server) transport(now time.Time) Transport {
	switch {
	case !now.Before(s.polled):
		return TransportStream
	case s.early >= 2:
		return TransportPoll
	}
	return TransportLongPoll
}

// held notes a stream of which nothing came: something holds it back. It returns
// true: polls take over.
func (s *server) held(now time.Time) bool {
	s.polled = now.Add(noStreams)
	s.short = 1 // at the next attempt one that dies early is enough
	return true
}

// died notes a stream that died early, and reports whether polls take over.
func (s *server) died(now time.Time) bool {
	if s.short++; s.short < 2 {
		return false
	}
	return s.held(now)
}

// cut notes a long poll that ended without an answer.
func (s *server) cut(after time.Duration) {
	asked := s.longest()
	if after < earlyCut || after > asked {
		s.early++
		return
	}
	s.wait = max((after * 3 / 4).Truncate(time.Second), leastWait)
}

// answered notes a long poll that was answered, and whether the server was ready to
// wait.
func (s *server) answered(waited bool) {
	s.early = 0
	if !waited {
		s.early = 2 // it does not know long polls
	}
}

// longest is what a long poll asks for.
func (s *server) longest() time.Duration {
	if s.wait == 0 {
		return longWait
	}
	return s.wait
}
