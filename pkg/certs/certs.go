package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// CheckEvery is how long the files are taken to be unchanged, after a look at them.
const CheckEvery = time.Second

// Files are PEM files.
type Files struct {
	// Cert has the certificate and those between it and its authority; Key its
	// private key.
	Cert, Key string
	// ClientCA has the authorities of clients. Empty asks clients for nothing.
	ClientCA string
	// CA has the authorities of the servers that this process calls. Empty means
	// those of the system.
	CA string
}

// A Keeper hands out what the files say. It is safe for concurrent use.
type Keeper struct {
	files Files
	log   *slog.Logger
	now   func() time.Time

	mu      sync.Mutex
	looked  time.Time
	stamps  [4]stamp
	current *loaded
}

// loaded is what the files had when they were last good.
type loaded struct {
	cert     *tls.Certificate
	clientCA *x509.CertPool
	ca       *x509.CertPool
}

type stamp struct {
	mod  time.Time
	size int64
}

// New reads the files once, so that what is wrong with them is an error of the start.
func New(files Files, log *slog.Logger) (*Keeper, error) {
	k := &Keeper{files: files, log: log, now: time.Now}
	var err error
	if k.stamps, err = files.stamps(); err != nil {
		return nil, err
	}
	k.current, err = files.load()
	k.looked = k.now()
	return k, err
}

func (f *Files) paths() [4]string { return [...]string{f.Cert, f.Key, f.ClientCA, f.CA} }

func (f *Files) stamps() (s [4]stamp, err error) {
	for i, path := range f.paths() {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return s, fmt.Errorf("certs: %w", err)
		}
		s[i] = stamp{info.ModTime(), info.Size()}
	}
	return s, nil
}

func (f *Files) load() (*loaded, error) {
	var l loaded
	if f.Cert != "" {
		// Its errors say what is wrong and never what is in the files.
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("certs: %s with %s: %w", f.Cert, f.Key, err)
		}
		l.cert = &pair
	}
	var err error
	if l.clientCA, err = pool(f.ClientCA); err != nil {
		return nil, err
	}
	l.ca, err = pool(f.CA)
	return &l, err
}

// pool returns nil without a file.
func pool(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certs: %s has no certificate", path)
	}
	return p, nil
}

// get returns what is in force, after a look at the files if the last is a while ago.
func (k *Keeper) get() *loaded {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.now(); now.Sub(k.looked) >= CheckEvery {
		k.looked = now
		k.look()
	}
	return k.current
}

func (k *Keeper) look() {
	stamps, err := k.files.stamps()
	if err == nil && stamps == k.stamps {
		return
	}
	var fresh *loaded
	if err == nil {
		fresh, err = k.files.load()
	}
	if err != nil {
		// Half of a pair may have been replaced; the next look finds the other.
		k.log.Warn("changed certificates cannot be used; those before stay in force", "err", err)
		return
	}
	k.stamps, k.current = stamps, fresh
	k.log.Info("certificates were read again", "certificate", k.files.Cert)
}

// Server returns the configuration of a listener. With mutual set a client must
// have a certificate of [Files.ClientCA]; else one that is shown must be good.
func (k *Keeper) Server(mutual bool) (*tls.Config, error) {
	if k.files.Cert == "" {
		return nil, errors.New("certs: a server needs a certificate")
	}
	if mutual && k.files.ClientCA == "" {
		return nil, errors.New("certs: to ask clients for certificates, name their authority")
	}
	base := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		l := k.get()
		c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: base.NextProtos, Certificates: []tls.Certificate{*l.cert}, ClientCAs: l.clientCA}
		switch {
		case mutual:
			c.ClientAuth = tls.RequireAndVerifyClientCert
		case l.clientCA != nil:
			c.ClientAuth = tls.VerifyClientCertIfGiven
		}
		return c, nil
	}
	// Some ask for a certificate before there is a client.
	base.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.get().cert, nil }
	return base, nil
}

// Client returns the configuration of calls to servers. It shows the certificate
// to those that ask for one.
func (k *Keeper) Client() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c := k.get().cert; c != nil {
				return c, nil
			}
			return new(tls.Certificate), nil // none
		},
		// The authorities may change while it is used, so they are looked up when
		// they are needed, by what replaces the verification of crypto/tls.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("certs: the server has no certificate")
			}
			opts := x509.VerifyOptions{Roots: k.get().ca, DNSName: s.ServerName, Intermediates: x509.NewCertPool()}
			for _, c := range s.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(opts)
			return err
		},
	}
}
