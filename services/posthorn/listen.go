package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/webhook"
	"github.com/posthornhq/posthorn/pkg/netguard"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	// listenPrefix begins the names of the subscriptions that `listen` makes.
	listenPrefix = "listen-"
	// listenLeft is how old one of those is before a person is told of it.
	listenLeft = 24 * time.Hour
	// listenClean bounds what is cleaned up at the end.
	listenClean = 10 * time.Second
)

// listenFlags are those of `listen`.
type listenFlags struct {
	subscription string
	spec         posthornv1.Subscription // of a temporary one
	types        []string
	direction    string
	forward      string
	headers      []string
	secret       string
	made         bool // the secret
	output       listenOutput
	parallel     int
	timeout      time.Duration
}

func newListen(a *app) *cobra.Command {
	f := &listenFlags{output: listenCompact}
	cmd := &cobra.Command{
		Use:   "listen",
		Short: "Print deliveries here, or forward them to a local URL",
		Long: `Print deliveries here as they come, or forward them to a local URL.

With --types a temporary pull subscription named ` + listenPrefix + `… is made, and deleted at the end. One that a
listener left behind when it was killed goes on collecting deliveries: ` + "`posthorn subscription list`" + ` shows it,
` + "`posthorn subscription delete`" + ` ends it. With --subscription the deliveries of a pull subscription that
there is are taken, shared with all its other clients.

With --forward each delivery is posted as a webhook, signed with --secret; a 2xx settles it, anything else
fails it, and it comes again by the subscription's policy. Without --forward what is printed is settled.

--output compact prints a line for each delivery, json a document in a line. With quiet only the IDs are printed,
with --forward only what failed, and at the end how many there were.

In a terminal r sends the last delivery again and q ends; elsewhere the same, each in a line of standard input.`,
		Example: `  posthorn listen --types 'order.*'
  posthorn listen --types '#' --forward http://localhost:3000/hooks
  posthorn listen --subscription orders-erp --output json | jq .event.data`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			return a.listen(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.subscription, "subscription", "", "a pull subscription whose deliveries are taken")
	fl.StringSliceVar(&f.types, "types", nil, "event types of a temporary subscription; may be patterns")
	fl.StringVar(&f.spec.Context, "context", "", "only events of this context (default \"default\")")
	fl.StringVar(&f.direction, "direction", "outgoing", "incoming or outgoing events")
	fl.StringVar(&f.spec.Tenant, "tenant", "", "only events for this tenant")
	fl.StringVar(&f.spec.Filter, "filter", "", "only events that this CEL expression is true of")
	fl.StringVar(&f.forward, "forward", "", "URL that deliveries are posted to")
	fl.StringArrayVar(&f.headers, "header", nil, "header of forwarded requests, name=value; may be repeated")
	fl.StringVar(&f.secret, "secret", "", "what forwarded requests are signed with, whsec_… (default: a new one, shown)")
	fl.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long a forwarded request may take")
	fl.VarP(&f.output, "output", "o", "how deliveries are shown: compact, quiet (IDs or failures alone) or json")
	fl.IntVar(&f.parallel, "parallel", 8, "deliveries at once")
	return cmd
}

func (f *listenFlags) check(cmd *cobra.Command) error {
	wrong := func(format string, args ...any) error { return usageError{cmd, fmt.Errorf(format, args...)} }
	if (f.subscription == "") == (len(f.types) == 0) {
		return wrong("give --types for a temporary subscription, or --subscription for one that there is")
	}
	if f.subscription != "" {
		for _, name := range []string{"context", "direction", "tenant", "filter"} {
			if cmd.Flags().Changed(name) {
				return wrong("--%s is for --types; a subscription has its own", name)
			}
		}
	}
	direction, ok := map[string]posthornv1.Event_Direction{
		"incoming": posthornv1.Event_INCOMING, "outgoing": posthornv1.Event_OUTGOING,
	}[strings.ToLower(f.direction)]
	switch {
	case !ok:
		return wrong("--direction: %q is neither incoming nor outgoing", f.direction)
	case f.parallel < 1 || f.parallel > 1000:
		return wrong("--parallel is 1 to 1000")
	case f.timeout <= 0:
		return wrong("--timeout must be more than 0")
	case f.forward == "" && (f.secret != "" || len(f.headers) > 0):
		return wrong("--secret and --header are for --forward")
	}
	f.spec.Types, f.spec.Direction = f.types, direction
	return nil
}

// listen takes deliveries until ctx is done or a person has had enough.
func (a *app) listen(ctx context.Context, f *listenFlags) (err error) {
	if f.secret == "" {
		f.secret, f.made = signature.NewStandardSecret(), true
	}
	dest, err := f.destination()
	if err != nil {
		return usageError{err: err}
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	name, remove, err := a.listenOn(ctx, c, f)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := a.newListenScreen(f)
	defer s.restore()
	if remove != nil {
		defer func() {
			if rErr := remove(context.WithoutCancel(ctx)); rErr != nil {
				s.complain(fmt.Sprintf("subscription %s is still there, and collects deliveries: %v\nposthorn subscription delete %s ends it", name, rErr, name))
				err = errors.Join(err, errReported)
			}
		}()
	}
	l := &listener{name: name, dest: dest, timeout: f.timeout, screen: s}
	s.greet(name, dest, f)
	go s.keys(cancel, func() { l.again(ctx) })
	defer s.sum()
	return c.Receive(ctx, name, l.handle, client.ReceiveOptions{Concurrency: f.parallel, OnError: func(err error) { s.complain(a.explain(err)) }})
}

// destination is where deliveries are forwarded to; nil for nowhere.
func (f *listenFlags) destination() (destination.Destination, error) {
	if f.forward == "" {
		return nil, nil
	}
	spec := &posthornv1.Webhook{Url: f.forward, Headers: map[string]string{}}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--header: %q is not name=value", h)
		}
		spec.Headers[name] = value
	}
	// The address is the choice of who runs this, on a machine of theirs.
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	hook, err := webhook.New(webhook.NewClient(netguard.New(everything), webhook.Config{Version: buildVersion()}), spec, firstOf(f.subscription, "listen"), []string{f.secret})
	if err != nil {
		return nil, fmt.Errorf("--forward: %w", err)
	}
	return hook, nil
}

// listenOn returns the name of the subscription to listen on; remove is nil for one
// that was there before.
func (a *app) listenOn(ctx context.Context, c *client.Client, f *listenFlags) (name string, remove func(context.Context) error, err error) {
	if f.subscription != "" {
		sub, err := c.Subscriptions.Get(ctx, f.subscription)
		if err != nil {
			return "", nil, err
		}
		if sub.GetDestination().GetPull() == nil {
			return "", nil, usageError{err: fmt.Errorf("subscription %s has its deliveries sent to %s; only a pull subscription can be listened on, or give --types", f.subscription, destinationText(sub))}
		}
		return f.subscription, nil, nil
	}
	a.tellOfLeft(ctx, c)
	f.spec.Name = listenPrefix + strings.ToLower(rand.Text())[:12]
	f.spec.Description = "Temporary, of posthorn listen"
	f.spec.Destination = &posthornv1.Destination{Kind: &posthornv1.Destination_Pull{Pull: &posthornv1.Pull{}}}
	f.spec.Secrets = []string{f.secret}
	if _, err := c.Subscriptions.Create(ctx, &f.spec); err != nil {
		return "", nil, err
	}
	return f.spec.Name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, listenClean)
		defer cancel()
		discard(ctx, c, f.spec.Name)
		return c.Subscriptions.Delete(ctx, f.spec.Name)
	}, nil
}

// discard settles what nobody has looked at: deleted with it, it would become dead
// letters of a subscription that is not there.
func discard(ctx context.Context, c *client.Client, name string) {
	for {
		left, err := c.Fetch(ctx, name, client.FetchOptions{Max: 1000})
		if err != nil || len(left) == 0 {
			return // what is left is seen among the dead letters
		}
		if err := c.Ack(ctx, left...); err != nil {
			return
		}
	}
}

// tellOfLeft tells of temporary subscriptions that seem to have been left behind.
func (a *app) tellOfLeft(ctx context.Context, c *client.Client) {
	for sub, err := range c.Subscriptions.List(ctx, client.ListOptions{Search: listenPrefix}) {
		if err != nil {
			return // it is a service, and no more
		}
		made := sub.GetMeta().GetCreatedAt()
		if strings.HasPrefix(sub.GetName(), listenPrefix) && made != nil && time.Since(made.AsTime()) > listenLeft {
			fmt.Fprintf(a.stderr, "%s is %s old; if nobody listens on it any more: posthorn subscription delete %s\n",
				oneLine(sub.GetName()), age(made, time.Now()), oneLine(sub.GetName()))
		}
	}
}
