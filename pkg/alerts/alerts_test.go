package alerts_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/alerts"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// acceptor keeps what it was given, once for each key.
type acceptor struct {
	events []event.Event
	keys   map[string]bool
	err    error
}

func (a *acceptor) Accept(_ context.Context, ev event.Event, key string) (event.Receipt, error) {
	if a.err != nil {
		return event.Receipt{}, a.err
	}
	if !a.keys[key] {
		a.keys[key] = true
		a.events = append(a.events, ev)
	}
	return event.Receipt{}, nil
}

func compile(t *testing.T, doc string) *subscription.Subscription {
	t.Helper()
	spec := new(posthornv1.Subscription)
	if err := protojson.Unmarshal([]byte(doc), spec); err != nil {
		t.Fatal(err)
	}
	s, err := subscription.Compile(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const erp = `{"name":"erp","types":["order.*"],"tenant":"acme","context":"testing","destination":{"webhook":{"url":"https://e.example"}}}`

// tell tells everything about a subscription twice.
func tell(t *testing.T, p *alerts.Publisher, s *subscription.Subscription) error {
	t.Helper()
	since := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	st := alerts.State{Since: since, Until: since.Add(time.Hour), Reason: "503", Detail: "busy", Status: 503, Failures: 5}
	dead := event.DeadLetter{ID: "7", Event: "ev_1", Type: "order.created", Source: "shop", Context: "testing", Subscription: s.Name, Round: 2, Attempts: 6, Reason: "exhausted", Detail: "busy", Status: 503, At: since}
	var err error
	for range 2 {
		err = errors.Join(err,
			p.Failing(t.Context(), s, st), p.Recovered(t.Context(), s, st), p.Disabled(t.Context(), s, "gone", since),
			p.DeadLetters(t.Context(), s, alerts.Letters{Count: 3, Since: since, Until: since, Last: dead}))
	}
	return err
}

func TestAlertsAreAsTheirDocumentSays(t *testing.T) {
	t.Parallel()
	a := &acceptor{keys: map[string]bool{}}
	if err := tell(t, alerts.New(a), compile(t, erp)); err != nil {
		t.Fatal(err)
	}
	schemas := documented(t)
	want := []string{alerts.Failing, alerts.Recovered, alerts.Disabled, alerts.DeadLetters}
	if len(a.events) != len(want) {
		t.Fatalf("%d events, want %d: what is told twice is one", len(a.events), len(want))
	}
	for i, ev := range a.events {
		if ev.Type != want[i] || !alerts.Is(ev.Type) || ev.Source != "posthorn" || ev.Subject != "erp" || ev.Tenant != "acme" || ev.Context != "testing" || ev.Direction != event.Outgoing {
			t.Errorf("event %d is %+v, want %s about erp", i, ev, want[i])
		}
		s := schemas[ev.Type]
		if s == nil {
			t.Errorf("%s is not in docs/events.md", ev.Type)
			continue
		}
		data, err := jsonschema.UnmarshalJSON(strings.NewReader(string(ev.Data)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(data); err != nil {
			t.Errorf("%s: %s: %v", ev.Type, ev.Data, err)
		}
		for name := range data.(map[string]any) {
			if _, ok := s.Properties[name]; !ok {
				t.Errorf("%s has a field %s, which docs/events.md does not know", ev.Type, name)
			}
		}
	}
}

// documented reads the schemas in docs/events.md.
func documented(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*jsonschema.Schema{}
	for _, m := range regexp.MustCompile("(?s)## (posthorn\\.[a-z.]+)\n\n```json\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(m[2]))
		if err != nil {
			t.Fatalf("%s: %v", m[1], err)
		}
		c := jsonschema.NewCompiler()
		c.AssertFormat()
		if err := c.AddResource(m[1]+".json", doc); err != nil {
			t.Fatal(err)
		}
		if out[m[1]], err = c.Compile(m[1] + ".json"); err != nil {
			t.Fatalf("%s: %v", m[1], err)
		}
	}
	return out
}

func TestAnAlertThatIsNotStoredIsAnError(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	p, s := alerts.New(&acceptor{err: full}), compile(t, erp)
	for name, err := range map[string]error{
		"failing": p.Failing(t.Context(), s, alerts.State{}), "recovered": p.Recovered(t.Context(), s, alerts.State{}),
		"disabled": p.Disabled(t.Context(), s, "gone", time.Time{}), "dead letters": p.DeadLetters(t.Context(), nil, alerts.Letters{}),
	} {
		if !errors.Is(err, full) {
			t.Errorf("%s: error is %v, want that it was not stored", name, err)
		}
	}
}

func TestIs(t *testing.T) {
	t.Parallel()
	for typ, want := range map[string]bool{
		alerts.Failing: true, alerts.Recovered: true, alerts.Disabled: true, alerts.DeadLetters: true,
		"posthorn.subscription": false, "posthorn.other": false, "order.created": false, "": false, "posthorn/deadletter/1/created": false,
	} {
		if alerts.Is(typ) != want {
			t.Errorf("%q is an alert: %t, want %t", typ, !want, want)
		}
	}
}
