package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	platform "github.com/posthornhq/posthorn/services/app"
)

const (
	// demoPatience bounds the setting up, and the way of each input.
	demoPatience = 10 * time.Second
	// demoDescription marks what the demo made, so that it never edits anything else.
	demoDescription = "Made by posthorn serve --demo"

	demoPolicy   = "demo"
	demoIncoming = "demo-incoming"
	demoOutgoing = "demo-outgoing"
)

// demo sends three real inputs to a subscriber of its own, shows each step of
// each event as JetStream has it, and keeps the subscriber up until ctx is done.
func (a *app) demo(ctx context.Context, cfg *config.Config, f *platform.Facts) error {
	if !cfg.Roles.Has(config.Gateway) {
		return errors.New("demo: it publishes to this process, which has no role gateway")
	}
	key, err := demoKey(cfg, f)
	if err != nil {
		return err
	}
	d := &demo{
		out: a.stdout, base: "http://" + reachable(cfg.HTTP),
		auth0Secret: "Bearer " + randomHex(16), githubSecret: randomHex(16),
		sights: make(chan sight, 1024),
	}
	if d.client, err = client.New(d.base, client.Config{Key: key, UserAgent: "posthorn-demo/" + buildVersion()}); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if d.echo, err = startEcho(ctx, signature.NewStandardSecret()); err != nil {
		return err
	}
	defer d.echo.stop(context.WithoutCancel(ctx))
	last, err := d.show(ctx, cfg, f)
	if err != nil {
		return err
	}
	d.line("")
	d.line("All five events are delivered. Three commands to try in another terminal:")
	flags := demoFlags(cfg)
	d.line("  posthorn event list%s", flags)
	d.line("  posthorn event trace %s%s", last, flags)
	if url := demoNATS(cfg, f); url != "" {
		d.line("  nats --server %s stream report", url)
	}
	if f.KeyFile != "" {
		d.line("The first two find the admin key in %s.", f.KeyFile)
	} else {
		d.line("The first two want the admin key in POSTHORN_API_KEY.")
	}
	d.line("The platform and the subscriber stay up until Ctrl-C.")
	<-ctx.Done()
	return nil
}

// demoKey returns the admin key: made by this start, given, or kept by an earlier one.
func demoKey(cfg *config.Config, f *platform.Facts) (string, error) {
	if key := firstOf(f.AdminKey, cfg.AdminKey.Reveal()); key != "" {
		return key, nil
	}
	if f.KeyFile == "" {
		return "", errors.New("demo: it needs the admin key; set POSTHORN_ADMIN_KEY")
	}
	raw, err := os.ReadFile(f.KeyFile)
	if err != nil {
		return "", fmt.Errorf("demo: the admin key: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// reachable returns an address to connect to for one to listen on.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// demoFlags returns the flags with which the CLI finds this process.
func demoFlags(cfg *config.Config) string {
	flags := ""
	if server := "http://" + reachable(cfg.HTTP); server != defaultServer {
		flags += " --server " + server
	}
	if cfg.Embedded() && filepath.Clean(cfg.Data) != filepath.Clean(defaultData) {
		flags += " --data " + cfg.Data
	}
	return flags
}

// demoNATS returns where the nats CLI finds the server. An external one's URL
// is for use, not for the screen, if it may have a password.
func demoNATS(cfg *config.Config, f *platform.Facts) string {
	if f.NATS != "" || cfg.Embedded() {
		return f.NATS
	}
	return cfg.NATSURL.String()
}

// A demo is one showing.
type demo struct {
	out    io.Writer
	base   string // URL of the gateway
	client *client.Client
	echo   *echo
	http   http.Client // to this process, on loopback
	sights chan sight

	auth0Secret, githubSecret string
}

func (d *demo) line(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", args...) }

// show sends the inputs one after another, each when the one before is
// delivered, and returns the ID of the last event.
func (d *demo) show(ctx context.Context, cfg *config.Config, f *platform.Facts) (string, error) {
	setup, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	stop, err := d.watch(setup, cfg, f)
	if err != nil {
		return "", err
	}
	defer stop()
	if err := d.configure(setup); err != nil {
		return "", err
	}
	d.line("")
	d.line("The demo: three inputs on their way to a subscriber at %s", d.echo.url)
	d.line("  It made policy %s, sources auth0 and github, subscriptions %s and %s,", demoPolicy, demoIncoming, demoOutgoing)
	d.line("  and a schema of %s. Times count from when an event is received.", demoOrderType)
	last := ""
	for i, input := range []struct {
		title string
		send  func(context.Context) ([]string, error)
	}{
		{"Auth0 sends a log batch of three records: POST /events/auth0", d.sendAuth0},
		{"GitHub sends a signed push: POST /events/github", d.sendGitHub},
		{"Your service publishes order.created: POST /api/v1/events (the subscriber says 503 once)", d.sendOrder},
	} {
		d.line("")
		d.line("%d. %s", i+1, input.title)
		ids, err := d.follow(ctx, input.send)
		if err != nil {
			return "", err
		}
		last = ids[len(ids)-1]
	}
	return last, nil
}

// described is a resource that says what it is for.
type described interface {
	client.Resource
	GetDescription() string
}

// ensure brings the demo's own resource up to date, and leaves one of the same
// name that somebody else made alone.
func ensure[T described](ctx context.Context, c *client.Collection[T], kind string, v T) error {
	was, err := c.Get(ctx, v.GetName())
	if err == nil && was.GetDescription() != v.GetDescription() {
		return fmt.Errorf("demo: there is a %s %s that the demo did not make; show the demo on another --data", kind, v.GetName())
	}
	if err != nil && !client.IsNotFound(err) {
		return fmt.Errorf("demo: look for %s %s: %w", kind, v.GetName(), err)
	}
	if _, _, err := c.Ensure(ctx, v); err != nil {
		return fmt.Errorf("demo: %s %s: %w", kind, v.GetName(), err)
	}
	return nil
}

// configure makes what the inputs need. Secrets and the subscriber's address
// are new with every start.
func (d *demo) configure(ctx context.Context) error {
	if err := d.schema(ctx); err != nil {
		return err
	}
	err := ensure(ctx, d.client.Policies, "policy", &posthornv1.Policy{
		Name: demoPolicy, Description: demoDescription,
		Delivery: &posthornv1.Delivery{Backoff: &posthornv1.Backoff{Initial: durationpb.New(time.Second)}},
	})
	if err != nil {
		return err
	}
	for _, s := range []*posthornv1.Source{
		{Name: "auth0", Kind: posthornv1.Source_AUTH0, Secrets: []string{d.auth0Secret}},
		{Name: "github", Kind: posthornv1.Source_GITHUB, Secrets: []string{d.githubSecret}},
	} {
		s.Description = demoDescription
		if err := ensure(ctx, d.client.Sources, "source", s); err != nil {
			return err
		}
	}
	for _, s := range []*posthornv1.Subscription{
		{Name: demoIncoming, Direction: posthornv1.Event_INCOMING, Types: []string{"com.auth0.log.#", "push"}},
		{Name: demoOutgoing, Direction: posthornv1.Event_OUTGOING, Types: []string{"order.*"}},
	} {
		s.Description, s.Policy, s.Secrets = demoDescription, demoPolicy, []string{d.echo.secret}
		s.Destination = &posthornv1.Destination{Kind: &posthornv1.Destination_Webhook{Webhook: &posthornv1.Webhook{Url: d.echo.url}}}
		if err := ensure(ctx, d.client.Subscriptions, "subscription", s); err != nil {
			return err
		}
	}
	return nil
}

// schema stores the schema of the demo's order. Another one of that type stays.
func (d *demo) schema(ctx context.Context) error {
	schema, err := client.SchemaOf[demoOrder]()
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	put := d.client.PutSchema
	_, err = d.client.GetSchema(ctx, demoOrderType, 0)
	if err == nil {
		put = d.client.CheckSchema
	} else if !client.IsNotFound(err) {
		return fmt.Errorf("demo: look for the schema of %s: %w", demoOrderType, err)
	}
	was := err == nil
	stored, err := put(ctx, demoOrderType, schema)
	if was && (client.IsRefusal(err) || stored.GetCreated()) {
		return fmt.Errorf("demo: there is a schema of %s that the demo did not make; show the demo on another --data", demoOrderType)
	}
	if err != nil {
		return fmt.Errorf("demo: schema of %s: %w", demoOrderType, err)
	}
	return nil
}

// A sight is one step of an event, as it came by on NATS.
type sight struct {
	event string
	place int // among the event's steps: stored, routed, then the attempts
	at    time.Time
	// One of these says what it was.
	sequence uint64 // on EVENTS
	subject  string // on DELIVERIES
	attempt  *event.Attempt
}

const (
	placeStored = iota
	placeRouted
	placeAttempt // and after it the attempts that follow
)

// watch begins to collect sights. What it returns ends it.
func (d *demo) watch(ctx context.Context, cfg *config.Config, f *platform.Facts) (stop func(), err error) {
	url := firstOf(f.NATS, cfg.NATSURL.Reveal())
	if url == "" {
		return nil, errors.New("demo: it watches what NATS says, which does not listen; give --nats-listen an address")
	}
	opts := []nats.Option{nats.Name("posthorn-demo")}
	if cfg.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(cfg.NATSCreds))
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("demo: connect to NATS: %w", err)
	}
	events, err := d.subscribe(ctx, nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("demo: watch: %w", err)
	}
	return func() { events.Stop(); nc.Close() }, nil
}

// subscribe looks at EVENTS through a consumer, which knows the sequence, and
// at the others by their subjects: of a work queue another consumer would take.
func (d *demo) subscribe(ctx context.Context, nc *nats.Conn) (jetstream.ConsumeContext, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, topology.StreamEvents)
	if err != nil {
		return nil, err
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: stream.CachedInfo().State.LastSeq + 1,
	})
	if err != nil {
		return nil, err
	}
	if _, err := nc.Subscribe(topology.LiveDeliveries, d.sawDelivery); err != nil {
		return nil, err
	}
	if _, err := nc.Subscribe(topology.LiveAttempts, d.sawAttempt); err != nil {
		return nil, err
	}
	if err := nc.FlushWithContext(ctx); err != nil {
		return nil, err
	}
	return consumer.Consume(d.sawEvent)
}

func (d *demo) sawEvent(m jetstream.Msg) {
	if md, err := m.Metadata(); err == nil {
		d.saw(sight{event: string(m.Data()), place: placeStored, at: md.Timestamp, sequence: md.Sequence.Stream})
	}
}

func (d *demo) sawDelivery(m *nats.Msg) {
	d.saw(sight{event: string(m.Data), place: placeRouted, at: time.Now(), subject: m.Subject})
}

func (d *demo) sawAttempt(m *nats.Msg) {
	a := new(event.Attempt)
	if json.Unmarshal(m.Data, a) != nil {
		return // by hand: nothing of ours
	}
	if a.Outcome == ledger.FilterError {
		return // of no delivery
	}
	s := sight{event: a.Event, place: placeRouted, at: a.At.Add(a.Latency), attempt: a}
	if a.Outcome != ledger.Unmatched {
		s.place = placeAttempt + a.Number - 1
	}
	d.saw(s)
}

// saw never waits: when others publish in masses, what they do is not looked at.
func (d *demo) saw(s sight) {
	select {
	case d.sights <- s:
	default:
	}
}

// A journey is the way of one event.
type journey struct {
	label string
	began time.Time
	last  time.Time
	next  int // place
	seen  map[int]sight
}

// follow sends an input and shows the steps of its events until all are delivered.
func (d *demo) follow(ctx context.Context, send func(context.Context) ([]string, error)) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	ids, err := send(ctx)
	if err != nil {
		return nil, err
	}
	journeys := make(map[string]*journey, len(ids))
	for _, id := range ids {
		journeys[id] = &journey{seen: map[int]sight{}}
	}
	for len(journeys) > 0 {
		var s sight
		select {
		case s = <-d.sights:
		case <-ctx.Done():
			return nil, fmt.Errorf("demo: %d of %d events are not delivered after %s; see posthorn event trace %s", len(journeys), len(ids), demoPatience, ids[0])
		}
		j := journeys[s.event]
		if j == nil {
			continue
		}
		// Steps come over several connections and may overtake each other here.
		j.seen[s.place] = s
		for s, ok := j.seen[j.next]; ok; s, ok = j.seen[j.next] {
			j.next++
			done, err := d.step(ctx, j, s)
			if err != nil {
				return nil, err
			}
			if done {
				delete(journeys, s.event)
				break
			}
		}
	}
	return ids, nil
}

// step shows a step, and reports whether the event is delivered.
func (d *demo) step(ctx context.Context, j *journey, s sight) (delivered bool, err error) {
	switch {
	case s.sequence != 0:
		return false, d.stored(ctx, j, s)
	case s.subject != "":
		queued, _ := topology.ParseDeliverySubject(s.subject)
		if queued.Own {
			d.tell(j, s.at, "routed", "to %s, in a lane of its own", queued.Subscription)
		} else {
			d.tell(j, s.at, "routed", "to %s, in the lane of policy %s, priority %s", queued.Subscription, queued.Policy, queued.Priority)
		}
		return false, nil
	}
	a := s.attempt
	switch a.Outcome {
	case event.Delivered:
		d.tell(j, s.at, attemptName(a), "%s", answered(a))
		signed := "which says that its signature is right"
		if !d.echo.checked(s.event) {
			signed = "but to a stranger at " + a.Destination // who took the port
		}
		d.tell(j, s.at, "delivered", "to %s, %s", a.Subscription, signed)
		return true, nil
	case event.Retry:
		d.tell(j, s.at, attemptName(a), "%s; again in %s", answered(a), short(a.NextAt.Sub(s.at).Round(10*time.Millisecond)))
		return false, nil
	}
	d.tell(j, s.at, string(a.Outcome), "%s", answered(a))
	return false, fmt.Errorf("demo: %s is not delivered: %s; see posthorn event trace %s", j.label, a.Outcome, s.event)
}

// stored shows what the event itself knows: all up to its storing.
func (d *demo) stored(ctx context.Context, j *journey, s sight) error {
	ev, err := d.client.GetEvent(ctx, s.event)
	if err != nil {
		return fmt.Errorf("demo: read %s: %w", s.event, err)
	}
	j.label, j.began = ev.GetType(), ev.GetReceivedAt().AsTime()
	d.tell(j, j.began, "received", "%s, %d bytes from %s", s.event, len(ev.GetData()), ev.GetSource())
	for _, st := range ev.GetReceipt() {
		d.tell(j, st.GetAt().AsTime().Add(st.GetTook().AsDuration()), "checked", "%s %s: %s", st.GetName(), st.GetOutcome(), st.GetDetail())
	}
	d.tell(j, s.at, "stored", "%s sequence %d", topology.StreamEvents, s.sequence)
	return nil
}

func attemptName(a *event.Attempt) string { return fmt.Sprintf("attempt %d", a.Number) }

func answered(a *event.Attempt) string {
	if a.Status == 0 {
		return fmt.Sprintf("no answer (%s) in %s", a.ErrorClass, short(a.Latency))
	}
	return fmt.Sprintf("%d %s in %s", a.Status, http.StatusText(a.Status), short(a.Latency))
}

// tell writes one line. Clocks of several writers are no order: no step is
// shown as earlier than the one before.
func (d *demo) tell(j *journey, at time.Time, step, format string, args ...any) {
	j.last = slices.MaxFunc([]time.Time{j.last, j.began, at}, time.Time.Compare)
	after := float64(j.last.Sub(j.began)) / float64(time.Millisecond)
	d.line("  %8.2f ms  %-16s  %-9s  %s", after, oneLine(j.label), step, fmt.Sprintf(format, args...))
}
