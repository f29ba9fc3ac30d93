package bus

import "github.com/nats-io/nats-server/v2/server"

// groups are what a core server belongs to: the servers of the core as such, and those
// that keep a bucket. Each elects a leader of its own.
func groups(srv *server.Server) []server.RaftzGroup {
	var all []server.RaftzGroup
	for _, account := range []string{sysAccount, keysAccount} {
		if status := srv.Raftz(&server.RaftzOptions{AccountFilter: account}); status != nil {
			for _, group := range (*status)[account] {
				all = append(all, group)
			}
		}
	}
	return all
}

// leadsAll reports whether a server leads every group that it belongs to.
func leadsAll(srv *server.Server) bool {
	all := groups(srv)
	for _, group := range all {
		if group.Leader != group.ID {
			return false
		}
	}
	return len(all) > 0
}

// wellLed reports whether a server knows a leader of every group that it belongs to.
func wellLed(srv *server.Server) bool {
	all := groups(srv)
	for _, group := range all {
		if group.Leader == "" {
			return false
		}
	}
	return len(all) > 0
}

// Leads reports whether this server leads those that keep a stream: changes of it are the
// quickest from this server's region, and its loss is the one that the others notice.
func (b *Bus) Leads(stream string) bool {
	srv := b.server()
	if srv == nil || b.cfg.Core == nil {
		return false
	}
	info, err := srv.Jsz(&server.JSzOptions{Account: keysAccount, Streams: true})
	if err != nil {
		return false
	}
	for _, account := range info.AccountDetails {
		for _, s := range account.Streams {
			if s.Name == stream && s.Cluster != nil {
				return s.Cluster.Leader == b.cfg.ServerName
			}
		}
	}
	return false
}

// serves reports whether this server can serve its clients, as far as it knows.
func (b *Bus) serves() bool {
	srv := b.server()
	return srv != nil && (b.cfg.Core == nil || len(b.cfg.Core.Peers) == 1 || wellLed(srv))
}
