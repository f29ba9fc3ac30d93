package server

import (
	"fmt"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore/adminapi"
)

// coreView says where the ledgers are, and how far that can be relied upon.
func (s *site) coreView() adminapi.Core {
	cfg := s.cfg
	view := adminapi.Core{Kind: "alone", Servers: 1, Durability: verified}
	if cfg.Bus == nil {
		return view
	}
	if cfg.core() != nil {
		view.Kind, view.Servers = "member", len(cfg.core().Servers)
		view.Leads = s.bus.Leads(events.StreamName(events.BucketName(events.Keys, s.id.Store, s.id.Epoch)))
	} else {
		view.Kind, view.Servers = "remote", len(cfg.Bus.URLs)
		if cfg.Bus.Durability != verified {
			view.Durability = unverified
			view.Why = "whether its servers fsync every write cannot be read from outside; when an administrator has made sure: bus.durability: verified"
		}
	}
	for _, link := range s.links {
		if err := link.Fault(); err != nil {
			view.Connected, view.Why = "", fmt.Sprint(err)
			return view
		}
		view.Connected = link.Server()
	}
	return view
}
