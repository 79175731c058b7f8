package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/signature"
)

// An echo is the demo's subscriber: it checks signatures and answers with what
// it got. The first order.created gets a 503, so that a retry is seen.
type echo struct {
	url    string
	secret string

	key   signature.StandardKey
	srv   *http.Server
	ended chan struct{}

	mu      sync.Mutex
	refused bool                // the 503 is given
	seen    map[string]struct{} // IDs of events whose signature was right
}

// startEcho starts an echo on a free port of this machine. It serves until stop.
func startEcho(ctx context.Context, secret string) (*echo, error) {
	key, err := signature.ParseStandardSecret(secret)
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("demo: the subscriber: %w", err)
	}
	e := &echo{
		url: "http://" + l.Addr().String(), secret: secret, key: key,
		ended: make(chan struct{}), seen: map[string]struct{}{},
	}
	e.srv = &http.Server{Handler: e, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(e.ended)
		_ = e.srv.Serve(l) // ends with stop; should it end before, the attempts say so
	}()
	return e, nil
}

// stop lets requests finish.
func (e *echo) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if e.srv.Shutdown(ctx) != nil {
		_ = e.srv.Close() // the process ends
	}
	<-e.ended
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, client.MaxBody))
	if err != nil {
		http.Error(w, "the body broke off or is too large", http.StatusBadRequest)
		return
	}
	if err := signature.VerifyStandardHeader([]signature.StandardKey{e.key}, r.Header, body, time.Now(), 0); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	if e.notNow(r.Header.Get(signature.HeaderID), r.Header.Get("Ce-Type")) {
		http.Error(w, "not now; this is the demo's one refusal", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	_, _ = w.Write(body) // who hangs up does not want it
}

// notNow notes an event, and says whether it is the one to be refused.
func (e *echo) notNow(id, eventType string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if eventType == demoOrderType && !e.refused {
		e.refused = true
		return true
	}
	e.seen[id] = struct{}{}
	return false
}

// checked reports whether an event came with a right signature and was taken.
func (e *echo) checked(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.seen[id]
	return ok
}
