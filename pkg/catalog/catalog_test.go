package catalog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/catalog"
	"github.com/posthornhq/posthorn/pkg/seal"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// within is how long a change is waited for, on a machine that does other things too.
const within = 30 * time.Second

// A stage is a server with the two buckets, and what writes to them.
type stage struct {
	config, secrets jetstream.KeyValue
	sealer          *seal.Sealer
}

func newStage(t *testing.T) *stage {
	t.Helper()
	js := jstest.WithTopology(t, topology.Config{})
	s := &stage{}
	var err error
	if s.config, err = js.KeyValue(t.Context(), topology.BucketConfig); err != nil {
		t.Fatal(err)
	}
	if s.secrets, err = js.KeyValue(t.Context(), topology.BucketSecrets); err != nil {
		t.Fatal(err)
	}
	if s.sealer, err = seal.New(bytes.Repeat([]byte{7}, seal.KeySize)); err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a catalog until the test ends.
func (s *stage) start(t *testing.T, log *slog.Logger, onChange ...func()) *catalog.Catalog {
	t.Helper()
	c, err := catalog.New(s.config, s.secrets, s.sealer, log, catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range onChange {
		c.OnChange(f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
	select {
	case <-c.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the catalog did not become ready within 30s")
	}
	return c
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (s *stage) put(t *testing.T, key string, m proto.Message) uint64 {
	t.Helper()
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return s.putRaw(t, key, string(b))
}

func (s *stage) putRaw(t *testing.T, key, value string) uint64 {
	t.Helper()
	rev, err := s.config.Put(t.Context(), key, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func (s *stage) putSecrets(t *testing.T, key string, list ...string) uint64 {
	t.Helper()
	plain, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.sealer.Seal(plain, key)
	if err != nil {
		t.Fatal(err)
	}
	rev, err := s.secrets.Put(t.Context(), key, sealed)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func wait(t *testing.T, c *catalog.Catalog, config, secrets uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := c.WaitFor(ctx, config, secrets); err != nil {
		t.Fatalf("revisions %d and %d were not seen within %v: %v", config, secrets, within, err)
	}
}

func sub(name, pattern string, secrets int32) *posthornv1.Subscription {
	return &posthornv1.Subscription{
		Name: name, Types: []string{pattern}, SecretCount: secrets,
		Destination: &posthornv1.Destination{Kind: &posthornv1.Destination_Webhook{Webhook: &posthornv1.Webhook{Url: "https://erp.example/hooks"}}},
	}
}

func policyOf(name string, retries int32) *posthornv1.Policy {
	return &posthornv1.Policy{Name: name, Delivery: &posthornv1.Delivery{MaxRetries: &retries}}
}

func TestPutEditAndDeleteAreSeenWithinASecondByEveryCatalog(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := []*catalog.Catalog{s.start(t, quiet()), s.start(t, quiet())}
	each := func(config, secrets uint64, check func(t *testing.T, c *catalog.Catalog)) {
		t.Helper()
		for _, c := range all {
			wait(t, c, config, secrets)
			check(t, c)
		}
	}

	each(s.put(t, "policies.slow", policyOf("slow", 9)), 0, func(t *testing.T, c *catalog.Catalog) {
		if got := c.Policy("slow").MaxRetries; got != 9 {
			t.Errorf("policy slow retries %d times, want 9", got)
		}
	})
	each(s.put(t, "policies.slow", policyOf("slow", 3)), 0, func(t *testing.T, c *catalog.Catalog) {
		if got := c.Policy("slow").MaxRetries; got != 3 {
			t.Errorf("edited policy slow retries %d times, want 3", got)
		}
		if got := len(c.Policies()); got != 2 {
			t.Errorf("there are %d policies, want slow and default", got)
		}
	})
	secret := s.putSecrets(t, "subscriptions.erp", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	each(s.put(t, "subscriptions.erp", sub("erp", "order.*", 1)), secret, func(t *testing.T, c *catalog.Catalog) {
		got, ok := c.Subscription("erp")
		if !ok || len(got.Secrets) != 1 {
			t.Errorf("subscription erp is there: %t, with %v; want one secret", ok, got)
		}
	})
	each(s.put(t, "sources.shop", &posthornv1.Source{Name: "shop", Kind: posthornv1.Source_GENERIC, Context: "testing"}), 0, func(t *testing.T, c *catalog.Catalog) {
		if _, ok := c.Source("testing", "shop"); !ok {
			t.Error("source shop is not in its context")
		}
		if _, ok := c.Source("", "shop"); ok {
			t.Error("source shop of context testing is in the default one too")
		}
	})

	for _, key := range []string{"policies.slow", "subscriptions.erp", "sources.shop"} {
		if err := s.config.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	last := s.putRaw(t, "settings.mark", "{}") // a deletion does not tell its revision
	each(last, 0, func(t *testing.T, c *catalog.Catalog) {
		if got := c.Policy("slow").Name; got != "default" {
			t.Errorf("deleted policy slow is still %s, want default", got)
		}
		if _, ok := c.Subscription("erp"); ok {
			t.Error("deleted subscription erp is still there")
		}
		if _, ok := c.Source("testing", "shop"); ok {
			t.Error("deleted source shop is still there")
		}
		if got := c.Problems(); len(got) != 0 {
			t.Errorf("problems %v, want none", got)
		}
	})
}

// Whoever starts later reads the same.
func TestACatalogIsReadyWhenEverythingStoredIsInForce(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.put(t, "subscriptions.erp", sub("erp", "order.*", 1))
	s.putSecrets(t, "subscriptions.erp", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	s.put(t, "policies.default", policyOf("default", 1))
	c := s.start(t, quiet())
	if _, ok := c.Subscription("erp"); !ok {
		t.Error("a ready catalog does not have the stored subscription")
	}
	if got := c.Policy("none-such").MaxRetries; got != 1 {
		t.Errorf("the default policy retries %d times, want 1 as stored", got)
	}
	if got := len(c.Policies()); got != 1 {
		t.Errorf("there are %d policies, want the stored default alone", got)
	}
}

// The two buckets are watched apart, so either may come first. An endpoint must
// not be served unsigned meanwhile.
func TestSecretsAndConfigurationMayComeInEitherOrder(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	tests := []struct {
		name          string
		secretsFirst  bool
		wantMeanwhile int // problems
	}{
		{"secrets first", true, 0},
		{"configuration first", false, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			c := s.start(t, quiet())
			steps := []func(){
				func() { wait(t, c, s.put(t, "subscriptions.erp", sub("erp", "#", 1)), 0) },
				func() { wait(t, c, 0, s.putSecrets(t, "subscriptions.erp", secret)) },
			}
			if tt.secretsFirst {
				steps[0], steps[1] = steps[1], steps[0]
			}
			steps[0]()
			if _, ok := c.Subscription("erp"); ok {
				t.Error("the subscription is in force with half of it")
			}
			if got := c.Problems(); len(got) != tt.wantMeanwhile {
				t.Errorf("problems %v, want %d", got, tt.wantMeanwhile)
			}
			steps[1]()
			got, ok := c.Subscription("erp")
			if !ok || len(got.Secrets) != 1 || got.Secrets[0] != secret {
				t.Errorf("subscription is there: %t, want it with its secret", ok)
			}
			if got := c.Problems(); len(got) != 0 {
				t.Errorf("problems %v, want none", got)
			}
		})
	}
}

func TestARotatedSecretTakesEffectWithoutAnEdit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := s.start(t, quiet())
	wait(t, c, s.put(t, "subscriptions.erp", sub("erp", "#", 1)), s.putSecrets(t, "subscriptions.erp", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	wait(t, c, 0, s.putSecrets(t, "subscriptions.erp", "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	got, ok := c.Subscription("erp")
	if !ok || len(got.Secrets) != 2 {
		t.Errorf("subscription is there: %t, with %v; want both secrets", ok, got)
	}
}

// The edit that adds a second secret is seen before the secret itself.
func TestAnEditWaitsForAllOfItsSecrets(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := s.start(t, quiet())
	wait(t, c, s.put(t, "subscriptions.erp", sub("erp", "old.*", 1)), s.putSecrets(t, "subscriptions.erp", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	wait(t, c, s.put(t, "subscriptions.erp", sub("erp", "new.*", 2)), 0)
	if got, ok := c.Subscription("erp"); !ok || got.Spec.GetTypes()[0] != "old.*" {
		t.Errorf("with one of two secrets %v is in force (%t), want the version before", got, ok)
	}
	wait(t, c, 0, s.putSecrets(t, "subscriptions.erp", "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	if got, ok := c.Subscription("erp"); !ok || got.Spec.GetTypes()[0] != "new.*" || len(got.Secrets) != 2 {
		t.Errorf("with both secrets %v is in force (%t), want the new version", got, ok)
	}
}

// The edit that points a subscription elsewhere is seen before the credentials for
// there are; those that are known must not be sent there, nor must it go without.
func TestADestinationWaitsForItsCredentials(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := s.start(t, quiet())
	const key = "subscriptions.erp"
	edit := func(host, token string) (config uint64, list []string) {
		spec := sub("erp", "#", 0)
		spec.GetDestination().GetWebhook().Url = "https://" + host + "/"
		spec.GetDestination().GetWebhook().Auth = &posthornv1.WebhookAuth{Kind: &posthornv1.WebhookAuth_Bearer_{Bearer: &posthornv1.WebhookAuth_Bearer{Token: &token}}}
		list = subscription.MergeSecrets(spec, nil)
		subscription.ClearSecrets(spec)
		subscription.CountSecrets(spec, list)
		return s.put(t, key, spec), list
	}
	inForce := func(host, token string) {
		t.Helper()
		got, ok := c.Subscription("erp")
		w := got.Spec.GetDestination().GetWebhook()
		if !ok || w.GetUrl() != "https://"+host+"/" || w.GetAuth().GetBearer().GetToken() != token {
			t.Errorf("in force is %s with token %q, want %s with %q", w.GetUrl(), w.GetAuth().GetBearer().GetToken(), host, token)
		}
	}
	config, list := edit("erp.example", "hush")
	wait(t, c, config, s.putSecrets(t, key, list...))
	inForce("erp.example", "hush")
	config, list = edit("new.example", "hush-new")
	wait(t, c, config, 0)
	inForce("erp.example", "hush")
	wait(t, c, 0, s.putSecrets(t, key, list...))
	inForce("new.example", "hush-new")
	if p := c.Problems(); len(p) != 0 {
		t.Errorf("problems are %v, want none", p)
	}
}

func TestAValueThatDoesNotCompileLeavesTheOneBeforeInForce(t *testing.T) {
	t.Parallel()
	const (
		policies = "policies.p"
		good     = `{"name":"p","delivery":{"maxRetries":2}}`
	)
	tests := []struct{ name, value string }{
		{"not JSON", `{"name":`},
		{"refused by validation", `{"name":"p","delivery":{"maxRetries":99}}`},
		{"under another name's key", `{"name":"q"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			var out lines
			c := s.start(t, slog.New(slog.NewTextHandler(&out, nil)))
			s.putRaw(t, policies, good)
			rev := s.putRaw(t, policies, tt.value)
			wait(t, c, rev, 0)
			if got := c.Policy("p").MaxRetries; got != 2 {
				t.Errorf("policy retries %d times, want 2 as before", got)
			}
			got := c.Problems()
			if len(got) != 1 || got[0].Kind != "policies" || got[0].Name != "p" || got[0].Revision != rev || !got[0].InForce || got[0].Reason == "" {
				t.Errorf("problems %+v, want one about policies.p at revision %d with what was before in force", got, rev)
			}
			wait(t, c, s.putRaw(t, "policies.other", `{"name":"other"}`), 0)
			if n := out.count("level=ERROR"); n != 1 {
				t.Errorf("logged %d times, want once", n)
			}
			wait(t, c, s.putRaw(t, policies, good), 0)
			if got := c.Problems(); len(got) != 0 {
				t.Errorf("problems %v after the repair, want none", got)
			}
		})
	}
}

// Secrets sealed by a key that this process lacks must not take a source down
// that works.
func TestSecretsThatCannotBeOpenedLeaveTheOnesBeforeInForce(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c := s.start(t, quiet())
	src := &posthornv1.Source{Name: "github", Kind: posthornv1.Source_GITHUB, SecretCount: 1}
	wait(t, c, s.put(t, "sources.github", src), s.putSecrets(t, "sources.github", "hush"))
	rev, err := s.secrets.Put(t.Context(), "sources.github", []byte("not sealed at all, but long enough to be"))
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c, 0, rev)
	if _, ok := c.Source("", "github"); !ok {
		t.Error("the source is gone")
	}
	got := c.Problems()
	if len(got) != 1 || strings.Contains(got[0].Reason, "hush") {
		t.Errorf("problems %+v, want one without the secret", got)
	}
}

func TestOnChangeIsCalledForEveryChange(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	calls := make(chan struct{}, 10)
	c := s.start(t, quiet(), func() { calls <- struct{}{} })
	next := func(what string) {
		t.Helper()
		select {
		case <-calls:
		case <-time.After(within):
			t.Fatalf("not called within %v of %s", within, what)
		}
	}
	next("being ready")
	s.put(t, "policies.p", policyOf("p", 1))
	next("a put")
	if got := c.Policy("p").Name; got != "p" {
		t.Errorf("called before policy p was in force; it is %s", got)
	}
	if err := s.config.Delete(t.Context(), "policies.p"); err != nil {
		t.Fatal(err)
	}
	next("a delete")
}

func TestWaitForGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	c := newStage(t).start(t, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WaitFor(ctx, 1, 0); err == nil {
		t.Error("no error for a revision that nobody wrote")
	}
}

// lines is a log that may be written to and read at once.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}
