package agentfeed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// A post is one authenticated POST to one server.
type post struct {
	client      *Client
	http        *http.Client
	url, target string
	covered     bool // the MAC covers the body
	once        bool // the connection is not kept
	limit       time.Duration
	most        int64 // bytes of the answer

	offset time.Duration     // of the server's clock from this one
	secret keystore.Material // of the last request
	nonce  wire.Nonce        // of the last request
	wait   time.Duration     // what the server asked to wait
}

// do sends the body that compose makes for a secret and a nonce, and returns the
// answer; once more, if the server says by how much the clock is off.
func (p *post) do(ctx context.Context, compose func(keystore.Material, wire.Nonce) ([]byte, error)) ([]byte, error) {
	answer, err := p.send(ctx, compose)
	var refused *ProblemError
	if errors.As(err, &refused) && refused.Name == wire.ClockSkew && refused.now != nil {
		p.offset = time.Until(*refused.now)
		answer, err = p.send(ctx, compose)
	}
	return answer, err
}

func (p *post) send(ctx context.Context, compose func(keystore.Material, wire.Nonce) ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	request, err := p.request(ctx, compose)
	if err != nil {
		return nil, err
	}
	response, err := p.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, p.most))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.url, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNoContent {
		var refused *ProblemError
		refused, p.wait = readProblem(p.url, response, text)
		return nil, refused
	}
	return text, nil
}

func (p *post) request(ctx context.Context, compose func(keystore.Material, wire.Nonce) ([]byte, error)) (*http.Request, error) {
	p.secret, p.nonce = p.client.keys.inUse(), wire.NewNonce()
	body, err := compose(p.secret, p.nonce)
	if err != nil {
		return nil, err
	}
	a := wire.Authorization{
		Host: p.client.host.Host, KID: p.client.kidOf(p.secret), Nonce: p.nonce, Time: time.Now().Add(p.offset).Unix(),
	}
	if p.covered {
		a.Body = wire.BodyHash(body)
	}
	if err := a.Sign(p.secret, http.MethodPost, p.target); err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+p.target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Close = p.once
	request.Header.Set("Authorization", a.String())
	request.Header.Set("Keytide-Feed-Accept", "1")
	request.Header.Set("Content-Type", "application/json")
	return request, nil
}
