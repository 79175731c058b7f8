package policy_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/backoff"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/policy"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func readOverride(t testing.TB, text string) *posthornv1.BackoffOverride {
	t.Helper()
	spec := new(posthornv1.BackoffOverride)
	if err := protojson.Unmarshal([]byte(text), spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func overrides(t testing.TB, texts ...string) *policy.Overrides {
	t.Helper()
	all := make([]*policy.Override, len(texts))
	for i, text := range texts {
		o, err := policy.CompileOverride(readOverride(t, text))
		if err != nil {
			t.Fatal(err)
		}
		all[i] = o
	}
	return policy.NewOverrides(all)
}

func TestValidateOverride(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, spec, field string }{
		{"retries alone", `{"name":"o","maxRetries":0}`, ""},
		{"all of it", `{"name":"o","source":"shop","type":"order.#","maxRetries":10,"backoff":{"strategy":"LINEAR","initial":"1s","max":"2s","jitter":0,"maxElapsed":"604800s"}}`, ""},
		{"a wait that is longer than the default policy's longest", `{"name":"o","backoff":{"initial":"1200s"}}`, ""},
		{"a URI's pattern", `{"name":"o","type":"shop.example/1/*","maxRetries":1}`, ""},
		{"nothing", `{"name":"o"}`, "backoff"},
		{"nothing but braces", `{"name":"o","backoff":{}}`, "backoff"},
		{"no name", `{"maxRetries":1}`, "name"},
		{"too many", `{"name":"o","maxRetries":11}`, "maxRetries"},
		{"fewer than none", `{"name":"o","maxRetries":-1}`, "maxRetries"},
		{"no pattern", `{"name":"o","type":"a..b","maxRetries":1}`, "type"},
		{"a long source", `{"name":"o","source":"` + strings.Repeat("x", 257) + `","maxRetries":1}`, "source"},
		{"longer than a week", `{"name":"o","backoff":{"maxElapsed":"604801s"}}`, "backoff.maxElapsed"},
		{"longer than its longest", `{"name":"o","backoff":{"initial":"3s","max":"2s"}}`, "backoff.initial"},
		{"jitter", `{"name":"o","backoff":{"jitter":1.1}}`, "backoff.jitter"},
		{"strategy", `{"name":"o","backoff":{"strategy":9}}`, "backoff.strategy"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := policy.ValidateOverride(readOverride(t, tt.spec))
			v := errs.ViolationsOf(err)
			if tt.field == "" && err != nil || tt.field != "" && (len(v) != 1 || v[0].Field != tt.field) {
				t.Errorf("got %v, want a violation of %q", err, tt.field)
			}
		})
	}
}

// C16: the most specific wins, and what it leaves out is decided by the next.
func TestTheMostSpecificOverrideWins(t *testing.T) {
	t.Parallel()
	all := overrides(t,
		`{"name":"everything","maxRetries":1,"backoff":{"initial":"11s"}}`,
		`{"name":"source","source":"shop","maxRetries":2,"backoff":{"initial":"12s"}}`,
		`{"name":"family","type":"order.#","maxRetries":3,"backoff":{"strategy":"LINEAR"}}`,
		`{"name":"type","type":"order.created","maxRetries":4}`,
		`{"name":"both","source":"shop","type":"order.#","maxRetries":6}`,
		`{"name":"elsewhere","source":"crm","type":"order.#","maxRetries":7}`,
		`{"name":"tie-b","type":"*.paid.b","maxRetries":8}`,
		`{"name":"tie-a","type":"a.*.b","maxRetries":9}`,
		`{"name":"hash","type":"x.#","maxRetries":8}`,
		`{"name":"star","type":"x.*","maxRetries":9}`,
	)
	base := compile(t, policy.Default())
	tests := []struct {
		name, source, typ string
		retries           int
		initial           time.Duration
		strategy          backoff.Strategy
	}{
		{"nothing but the one for everything", "crm", "user.created", 1, 11 * time.Second, backoff.Exponential},
		{"a source before everything", "shop", "user.created", 2, 12 * time.Second, backoff.Exponential},
		{"a type before everything", "", "order.paid", 3, 11 * time.Second, backoff.Linear},
		{"more words before fewer", "billing", "order.created", 4, 11 * time.Second, backoff.Linear},
		{"a type and a source before a type, and a type before a source", "shop", "order.created", 6, 12 * time.Second, backoff.Linear},
		{"those of another source do not count", "crm", "order.paid", 7, 11 * time.Second, backoff.Linear},
		{"of two as specific the name decides", "", "a.paid.b", 9, 11 * time.Second, backoff.Exponential},
		{"one word before any number", "", "x.y", 9, 11 * time.Second, backoff.Exponential},
		{"a URI matches no pattern with dots", "", "order.created/1/x", 1, 11 * time.Second, backoff.Exponential},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := all.Apply(base, tt.source, tt.typ)
			if got.MaxRetries != tt.retries || got.Schedule.Initial != tt.initial || got.Schedule.Strategy != tt.strategy {
				t.Errorf("%d retries after %v, %v; want %d, %v, %v", got.MaxRetries, got.Schedule.Initial, got.Schedule.Strategy, tt.retries, tt.initial, tt.strategy)
			}
			if got.Schedule.MaxElapsed != base.Schedule.MaxElapsed || got.Timeout != base.Timeout || !got.Retryable(503) || got.Retryable(404) {
				t.Errorf("what no override says is not the default policy's: %+v", got)
			}
		})
	}
}

// C16: publisher side and subscriber side are independent. Who names a policy has
// decided, and nobody else's settings reach in.
func TestAPolicyThatIsNamedIsNotOverridden(t *testing.T) {
	t.Parallel()
	all := overrides(t, `{"name":"all","maxRetries":9,"backoff":{"maxElapsed":"604800s"}}`)
	own := compile(t, read(t, `{"name":"own","delivery":{"maxRetries":2}}`))
	if got := all.Apply(own, "shop", "order.created"); got != own {
		t.Errorf("policy own became %+v", got)
	}
	if got := all.Widen(own); got != own {
		t.Errorf("policy own was widened to %+v", got)
	}
	if got := (*policy.Overrides)(nil).Apply(own, "", ""); got != own {
		t.Errorf("without overrides policy own became %+v", got)
	}
}

// The queue ends a delivery after MaxDeliver, and its claim ends with its lifetime:
// both must be as long as the longest override.
func TestTheQueueHasRoomForOverrides(t *testing.T) {
	t.Parallel()
	base := compile(t, policy.Default())
	wide := overrides(t, `{"name":"a","type":"a","maxRetries":9}`, `{"name":"b","source":"b","backoff":{"maxElapsed":"604800s"}}`).Widen(base)
	if wide.MaxDeliver() != 10 || wide.Lifetime() != 7*24*time.Hour {
		t.Errorf("handed out %d times within %v, want 10 times within a week", wide.MaxDeliver(), wide.Lifetime())
	}
	if wide.MaxRetries != 5 || wide.Schedule != base.Schedule {
		t.Errorf("what is not overridden is now tried %d times by %+v", wide.MaxRetries, wide.Schedule)
	}
	if got := wide.Describe()["posthorn.overrides"]; got != "up to 9 retries within 168h0m0s" {
		t.Errorf("described as %q", got)
	}
	narrow := overrides(t, `{"name":"a","type":"a","maxRetries":0,"backoff":{"maxElapsed":"1s"}}`)
	if got := narrow.Widen(base); got != base {
		t.Errorf("an override that asks for less widened the policy to %+v", got)
	}
	if got := narrow.Apply(wide, "", "a"); got.MaxRetries != 0 || got.Schedule.MaxElapsed != time.Second {
		t.Errorf("tried %d times within %v, want none within 1s", got.MaxRetries, got.Schedule.MaxElapsed)
	}
}

func TestWithoutAnOverrideNothingIsAllocated(t *testing.T) {
	base := compile(t, policy.Default())
	all := overrides(t, `{"name":"a","type":"order.#","maxRetries":9}`, `{"name":"b","source":"shop","maxRetries":8}`)
	if n := testing.AllocsPerRun(100, func() {
		if all.Apply(base, "crm", "user.created") != base {
			t.Error("an override was applied that does not match")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkApplyOverrides(b *testing.B) {
	p, err := policy.Compile(policy.Default())
	if err != nil {
		b.Fatal(err)
	}
	var texts []string
	for i := range 1000 {
		texts = append(texts, `{"name":"o`+string(rune('a'+i%26))+`","type":"t`+strings.Repeat("x", i%50)+`.#","source":"s`+strings.Repeat("y", i/50)+`","maxRetries":9}`)
	}
	all := overrides(b, texts...)
	for b.Loop() {
		all.Apply(p, "sy", "txx.created")
	}
}
