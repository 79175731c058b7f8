package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Config holds what operators may tune.
type Config struct {
	// Dir is the data directory; JetStream's files are in its folder nats. Required.
	Dir string
	// Listen is the address for clients, host:port; port 0 is any free one.
	// Empty listens nowhere: only this process reaches the server.
	Listen string
	// MaxStore is the most that all streams together may reserve, in bytes.
	// Default: no limit of the server's own.
	MaxStore int64
	// TLS, if set, is spoken with clients, but for this process's own.
	TLS *tls.Config
	// SyncAlways makes the server sync every message to disk by itself, for
	// platforms without the commit barrier.
	SyncAlways bool
}

// A Server is a running nats-server.
type Server struct {
	ns   *server.Server
	lock *os.File
	tls  bool
}

const (
	// tlsTimeout bounds the handshake of a client, in seconds.
	tlsTimeout = 5
	// connectTimeout bounds a connection of this process to its own server. That one
	// is there: what takes long is the machine, and it passes.
	connectTimeout = 30 * time.Second
)

// Start starts a server and waits until clients can connect.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("embedded: no data directory given")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded: make the data directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	ns, err := start(ctx, cfg, log)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Server{ns: ns, lock: lock, tls: cfg.TLS != nil}, nil
}

func start(ctx context.Context, cfg Config, log *slog.Logger) (*server.Server, error) {
	opts, err := options(ctx, cfg)
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded: configure nats-server: %w", err)
	}
	adapter := &logger{log: log.With("component", "nats-server")}
	ns.SetLoggerV2(adapter, false, false, false)
	ns.Start()
	// A server that gave up would never be ready.
	if adapter.gaveUp() || !ns.ReadyForConnections(30*time.Second) {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fmt.Errorf("embedded: nats-server did not start on %s: %s", cfg.Dir, adapter.lastError())
	}
	if !ns.JetStreamEnabled() {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fmt.Errorf("embedded: JetStream did not start on %s: %s", cfg.Dir, adapter.lastError())
	}
	return ns, nil
}

func options(ctx context.Context, cfg Config) (*server.Options, error) {
	maxStore := cfg.MaxStore
	if maxStore == 0 {
		maxStore = 1 << 50
	}
	opts := &server.Options{
		ServerName:                 "posthorn",
		JetStream:                  true,
		StoreDir:                   filepath.Join(cfg.Dir, "nats"),
		JetStreamMaxStore:          maxStore,
		JetStreamMaxMemory:         1 << 30,
		SyncAlways:                 cfg.SyncAlways,
		NoSigs:                     true,
		NoLog:                      false,
		MaxPayload:                 2 << 20,
		DontListen:                 cfg.Listen == "",
		DisableShortFirstPing:      true,
		JetStreamLimits:            server.JSLimitOpts{DefaultMaxConsumers: -1},
		JetStreamRequestQueueLimit: 100_000,
	}
	if cfg.Listen == "" {
		return opts, nil
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("embedded: listen address %q is not host:port: %w", cfg.Listen, err)
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 {
		return nil, fmt.Errorf("embedded: port of %q is not a number from 0 to 65535", cfg.Listen)
	}
	if n == 0 {
		n = server.RANDOM_PORT
	} else if err := portFree(ctx, cfg.Listen); err != nil {
		// The server would end the process, or retry for seconds, instead.
		return nil, err
	}
	opts.Host, opts.Port = host, n
	if cfg.TLS != nil {
		opts.TLSConfig, opts.TLSTimeout = cfg.TLS, tlsTimeout
	}
	return opts, nil
}

func portFree(ctx context.Context, addr string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("embedded: NATS cannot listen on %s: %w; stop who does, or give another address with --nats-listen", addr, err)
	}
	return l.Close()
}

// lockDir makes sure that this process is the only one on the directory. The
// lock goes with the process, however it ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded: the data directory %s is not writable: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("embedded: another process is running on the data directory %s; stop it, or give another with --data", dir)
		}
		return nil, fmt.Errorf("embedded: lock %s: %w", path, err)
	}
	return f, nil
}

// URL returns where clients connect; empty when the server does not listen.
func (s *Server) URL() string {
	if s.ns.Addr() == nil {
		return ""
	}
	if s.tls {
		return "tls://" + s.ns.Addr().String()
	}
	return "nats://" + s.ns.Addr().String()
}

// Connect returns a new connection of this process. A TCP connection over
// loopback, where the server listens, is faster than the server's in-process
// pipe, which has no buffer; but not if it would be encrypted.
func (s *Server) Connect(name string, opts ...nats.Option) (*nats.Conn, error) {
	opts = append([]nats.Option{nats.Name(name), nats.Timeout(connectTimeout)}, opts...)
	url := s.URL()
	if url == "" || s.tls {
		url = ""
		opts = append(opts, nats.InProcessServer(s.ns))
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("embedded: connect %s: %w", name, err)
	}
	return nc, nil
}

// Running reports whether JetStream works; it is off after the disk was full.
func (s *Server) Running() bool { return s.ns.Running() && s.ns.JetStreamEnabled() }

// Stop ends the server and waits until its files are closed.
func (s *Server) Stop() error {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("embedded: unlock: %w", err)
	}
	return nil
}
