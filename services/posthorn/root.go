package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/certs"
	"github.com/posthornhq/posthorn/pkg/client"
)

const (
	defaultServer = "http://127.0.0.1:9600"
	defaultData   = "./posthorn-data"
)

// An app is what a command has of the process it runs in, and the flags that
// all commands share.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string

	serverFlag string
	keyFlag    string
	tlsFlags   certs.Files // of the connection to the platform
	dataFlag   string
	output     format

	// retries is how often a call is repeated while the platform is out of reach.
	retries int
	// keyFrom says where the key came from, for the message when it is refused.
	keyFrom string
}

// run is the program without the process: it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, getenv: getenv, output: formatTable, retries: 2}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return a.report(root.ExecuteContext(ctx))
}

func newRoot(a *app) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "posthorn",
		Short: "An event platform on NATS JetStream",
		Long: `Posthorn takes in events, stores them, and delivers them to whoever subscribed.

Commands that speak to the platform find it at --server, and prove who they are with
the first of: --key, POSTHORN_API_KEY, POSTHORN_ADMIN_KEY, the file admin.key in the data
directory (--data, POSTHORN_DATA, ` + defaultData + `).

` + exitCodesText,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{cmd, err} })
	flags := root.PersistentFlags()
	flags.StringVar(&a.serverFlag, "server", "", "base URL of the platform (POSTHORN_SERVER; default "+defaultServer+")")
	flags.StringVar(&a.keyFlag, "key", "", "API key (POSTHORN_API_KEY, POSTHORN_ADMIN_KEY)")
	flags.StringVar(&a.tlsFlags.CA, "ca", "", "authorities of an https server, in PEM (POSTHORN_CA; default the system's)")
	flags.StringVar(&a.tlsFlags.Cert, "client-cert", "", "certificate to show to the server, in PEM (POSTHORN_CLIENT_CERT)")
	flags.StringVar(&a.tlsFlags.Key, "client-key", "", "its private key, in PEM (POSTHORN_CLIENT_KEY)")
	flags.StringVar(&a.dataFlag, "data", "", "data directory whose admin.key is read (POSTHORN_DATA; default "+defaultData+")")
	flags.VarP(&a.output, "output", "o", "how results are shown: table, json or yaml")

	root.AddCommand(
		newSource(a),
		newSubscription(a),
		newPolicy(a),
		newAuthorization(a),
		newBackoff(a),
		newSettings(a),
		newSchema(a),
		newPublish(a),
		newEvent(a),
		newDeadLetter(a),
		newReplay(a),
		newLane(a),
		newListen(a),
		newUser(a),
		newKey(a),
		newSignIn(a),
		newWhoAmI(a),
		newAudit(a),
		newServe(a),
		newTopology(a),
		newConfig(a),
		newSealKey(a),
		newBench(a),
		newBenchRelay(),
		newBenchSink(),
		newVersion(a),
		newExitCodes(),
	)
	return root
}

// group makes a command that has nothing but others below it.
func group(cmd *cobra.Command, sub ...*cobra.Command) *cobra.Command {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		msg := fmt.Sprintf("there is no command %q", args[0])
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			msg += "; did you mean " + strings.Join(s, " or ") + "?"
		}
		return usageError{cmd, errors.New(msg)}
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(sub...)
	return cmd
}

// args makes what is wrong with a command's arguments an error of usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{cmd, err}
		}
		if slices.Contains(args, "") {
			return usageError{cmd, errors.New("an argument is empty")}
		}
		return nil
	}
}

// client returns a client of the platform that the flags and the environment say.
func (a *app) client() (*client.Client, error) {
	key, err := a.key()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := a.tls()
	if err != nil {
		return nil, err
	}
	c, err := client.New(a.server(), client.Config{Key: key, TLS: tlsConfig, UserAgent: "posthorn-cli/" + buildVersion(), Retries: a.retries})
	if err != nil {
		return nil, usageError{err: fmt.Errorf("--server: %w", err)}
	}
	return c, nil
}

// tls returns nil where nothing is said about it.
func (a *app) tls() (*tls.Config, error) {
	files := certs.Files{
		CA:   firstOf(a.tlsFlags.CA, a.getenv("POSTHORN_CA")),
		Cert: firstOf(a.tlsFlags.Cert, a.getenv("POSTHORN_CLIENT_CERT")),
		Key:  firstOf(a.tlsFlags.Key, a.getenv("POSTHORN_CLIENT_KEY")),
	}
	if files == (certs.Files{}) {
		return nil, nil
	}
	k, err := certs.New(files, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, usageError{err: err}
	}
	return k.Client(), nil
}

func (a *app) server() string {
	return firstOf(a.serverFlag, a.getenv("POSTHORN_SERVER"), defaultServer)
}

// data returns the data directory, and whether somebody named it.
func (a *app) data() (dir string, named bool) {
	dir = firstOf(a.dataFlag, a.getenv("POSTHORN_DATA"))
	return firstOf(dir, defaultData), dir != ""
}

func (a *app) key() (string, error) {
	for _, k := range []struct{ from, value string }{
		{"--key", a.keyFlag},
		{"POSTHORN_API_KEY", a.getenv("POSTHORN_API_KEY")},
		{"POSTHORN_ADMIN_KEY", a.getenv("POSTHORN_ADMIN_KEY")},
	} {
		if k.value != "" {
			a.keyFrom = k.from
			return k.value, nil
		}
	}
	dir, named := a.data()
	// A key that happens to lie in the working directory is not for servers elsewhere.
	if !named && !isLoopback(a.server()) {
		return "", nil
	}
	file := filepath.Join(dir, "admin.key")
	raw, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return "", nil // the platform says whether it takes a key
	case err != nil:
		return "", fmt.Errorf("the admin key: %w", err)
	}
	a.keyFrom = file
	return strings.TrimSpace(string(raw)), nil
}

func isLoopback(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
