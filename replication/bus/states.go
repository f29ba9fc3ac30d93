package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// A ServerState is what a NATS server of the core says of itself.
type ServerState struct {
	Server     string
	SyncAlways bool
	MaxStore   int64
	Used       uint64 // bytes of the store
	Streams    []StreamState
}

// A StreamState is a stream as one server keeps it.
type StreamState struct {
	Name              string
	Msgs, First, Last uint64
}

const (
	statesSubject = "$SYS.REQ.SERVER.PING.JSZ"
	statesInbox   = "_INBOX.states"
	// statesPatience is how long the servers of a core are waited for. Those that have
	// not answered by then count as away.
	statesPatience = 2 * time.Second
)

// States asks every server of the core for its own state: what one says of another may
// be wrong. Servers that do not answer in time are missing.
func (b *Bus) States(ctx context.Context) ([]ServerState, error) {
	srv := b.server()
	if srv == nil {
		return nil, fmt.Errorf("bus: states: this server is apart from the rest of its core, or has stopped")
	}
	if b.gate == nil || len(b.cfg.Core.Peers) == 1 {
		account := "$G"
		if b.gate != nil {
			account = keysAccount
		}
		info, err := srv.Jsz(&server.JSzOptions{Account: account, Accounts: true, Streams: true})
		if err != nil {
			return nil, fmt.Errorf("bus: state: %w", err)
		}
		return []ServerState{stateOf(srv.Name(), info)}, nil
	}
	nc, err := b.observer(srv)
	if err != nil {
		return nil, fmt.Errorf("bus: states: %w", err)
	}
	defer nc.Close()
	states, err := askStates(ctx, nc, len(b.cfg.Core.Peers))
	if err != nil {
		return nil, fmt.Errorf("bus: states: %w", err)
	}
	return states, nil
}

func askStates(ctx context.Context, nc *nats.Conn, size int) ([]ServerState, error) {
	question, err := json.Marshal(server.JSzOptions{Account: keysAccount, Accounts: true, Streams: true})
	if err != nil {
		return nil, err
	}
	inbox := nc.NewRespInbox()
	answers, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	if err := nc.PublishRequest(statesSubject, inbox, question); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, statesPatience)
	defer cancel()
	byName := make(map[string]ServerState)
	for len(byName) < size {
		msg, err := answers.NextMsgWithContext(ctx)
		if err != nil {
			break // those who have not answered are away
		}
		var answer struct {
			Server server.ServerInfo `json:"server"`
			Data   *server.JSInfo    `json:"data"`
		}
		if err := json.Unmarshal(msg.Data, &answer); err != nil {
			return nil, err
		}
		if answer.Data != nil {
			byName[answer.Server.Name] = stateOf(answer.Server.Name, answer.Data)
		}
	}
	states := make([]ServerState, 0, len(byName))
	for _, s := range byName {
		states = append(states, s)
	}
	slices.SortFunc(states, func(a, b ServerState) int { return cmp.Compare(a.Server, b.Server) })
	return states, nil
}

func stateOf(name string, info *server.JSInfo) ServerState {
	s := ServerState{Server: name, SyncAlways: info.Config.SyncAlways, MaxStore: info.Config.MaxStore, Used: info.Store}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			s.Streams = append(s.Streams, StreamState{
				Name: stream.Name, Msgs: stream.State.Msgs, First: stream.State.FirstSeq, Last: stream.State.LastSeq,
			})
		}
	}
	return s
}

// observer connects in memory as the one who may ask the servers for their states.
// Nobody outside of this process has its token.
func (b *Bus) observer(srv *server.Server) (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(srv), nats.Name("observer"), nats.NoReconnect(),
		nats.Token(b.gate.inner), nats.Timeout(innerLimit), nats.CustomInboxPrefix(statesInbox))
}
