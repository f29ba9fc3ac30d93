package bus

import (
	"context"
	"net/url"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	homeCheck = time.Second
	// homeAfter is how long this process's own server must serve before a link goes back
	// to it; doubled, up to homeMost, each time that it did not stay for long.
	homeAfter = 10 * time.Second
	homeMost  = 5 * time.Minute
	homeStays = time.Minute
)

// goHome brings a link back to this process's own server, until ctx ends. Any server of
// a core does as well as another, but while a link goes to one elsewhere, the loss of
// that one is noticed here too.
func (l *Link) goHome(ctx context.Context, own *Bus) {
	tick := time.NewTicker(homeCheck)
	defer tick.Stop()
	var away, went time.Time // since when there is somewhere to go back to; when it last went
	for wait := homeAfter; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		switch now := time.Now(); {
		case l.Own():
			away = time.Time{}
			if now.Sub(went) > homeStays {
				wait = homeAfter
			}
		case l.Fault() != nil || !own.serves():
			away = time.Time{}
		case away.IsZero():
			away = now
		case now.Sub(away) >= wait:
			if away = (time.Time{}); now.Sub(went) < homeStays+wait {
				wait = min(2*wait, homeMost)
			}
			went = now
			l.homing.Store(true)
			l.log.Debug("going back to the own core server")
			if err := l.Reconnect(); err != nil {
				return // the link is closed
			}
		}
	}
}

// next chooses the server to connect to: the own one when the link is to go there, once;
// otherwise the one whose turn it is.
func (l *Link) next(servers []nats.Server, _ nats.ServerInfo) (*nats.Server, time.Duration) {
	if !l.homing.CompareAndSwap(true, false) {
		return nil, 0
	}
	for i, s := range servers {
		if l.isOwn(s.URL) {
			return &servers[i], 0
		}
	}
	return nil, 0
}

func (l *Link) isOwn(u *url.URL) bool { return l.own != "" && u != nil && u.Host == l.own }
