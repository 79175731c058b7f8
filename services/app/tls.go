package app

import (
	"crypto/tls"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/posthornhq/posthorn/pkg/certs"
	"github.com/posthornhq/posthorn/pkg/config"
)

// openCerts reads the certificates, if there are any.
func (a *App) openCerts() error {
	t := a.cfg.TLS
	if t.Cert == "" && t.CA == "" {
		return nil
	}
	var err error
	a.certs, err = certs.New(certs.Files{Cert: t.Cert, Key: t.Key, CA: t.CA, ClientCA: t.ClientCA}, a.log)
	return err
}

// mutual reports whether clients of a port must show a certificate. internal
// ports are those that only the platform's own processes call.
func (a *App) mutual(internal bool) bool {
	return a.cfg.TLS.ClientCA != "" && (internal || a.cfg.TLS.ClientAuth == config.AllClients)
}

// serverTLS returns nil for a port without TLS.
func (a *App) serverTLS(internal bool) (*tls.Config, error) {
	if a.cfg.TLS.Cert == "" {
		return nil, nil
	}
	return a.certs.Server(a.mutual(internal))
}

// serverCredentials returns what a gRPC server needs to speak TLS, if it does.
func (a *App) serverCredentials(internal bool) ([]grpc.ServerOption, error) {
	cfg, err := a.serverTLS(internal)
	if cfg == nil || err != nil {
		return nil, err
	}
	return []grpc.ServerOption{grpc.Creds(credentials.NewTLS(cfg))}, nil
}

// clientCredentials is how this process calls another of the platform: over TLS
// if it has a certificate itself, or knows whose to expect.
func (a *App) clientCredentials() credentials.TransportCredentials {
	if a.certs == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(a.certs.Client())
}
