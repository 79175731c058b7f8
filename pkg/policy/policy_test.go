package policy_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/backoff"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/policy"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		spec string
		want string // the message; none if empty
	}{
		{"a name is enough", `{"name":"p"}`, ""},
		{"no retries", `{"name":"p","delivery":{"maxRetries":0}}`, ""},
		{"all limits reached", `{"name":"p","delivery":{"maxRetries":10,"timeout":"30s","retryOn":["400","599","4xx","5xx"],
			"backoff":{"strategy":"LINEAR","initial":"1s","max":"1s","jitter":1,"maxElapsed":"604800s"}}}`, ""},
		{"an interceptor that is switched off", `{"name":"p","security":{"flow":[{"disabled":true,"jwt":{"location":"HEADER_DEFAULT"}}]}}`, ""},

		{"no name", `{}`, "name: is required"},
		{"not a name", `{"name":"My policy"}`, `name: "My policy" is not a name: lower-case letters, digits and, not at the beginning, hyphens are allowed`},
		{"an interceptor of no kind", `{"name":"p","security":{"flow":[{"disabled":true}]}}`, "security.flow[0]: says of no interceptor what kind it is"},
		{"eleven retries", `{"name":"p","delivery":{"maxRetries":11}}`, "delivery.maxRetries: is 11, must be 0 to 10"},
		{"less than no retries", `{"name":"p","delivery":{"maxRetries":-1}}`, "delivery.maxRetries: is -1, must be 0 to 10"},
		{"no time", `{"name":"p","delivery":{"timeout":"0s"}}`, "delivery.timeout: is 0s, must be more than 0s and at most 30s"},
		{"too much time", `{"name":"p","delivery":{"timeout":"30.001s"}}`, "delivery.timeout: is 30.001s, must be more than 0s and at most 30s"},
		{"none beside others", `{"name":"p","delivery":{"retryOn":["none","5xx"]}}`, `delivery.retryOn[0]: "none" stands alone`},
		{"success is not retried", `{"name":"p","delivery":{"retryOn":["5xx","200"]}}`,
			`delivery.retryOn[1]: "200" means success, which is not retried; "4xx", "5xx" and statuses from 400 to 599 are allowed`},
		{"no delay", `{"name":"p","delivery":{"backoff":{"initial":"0s"}}}`, "delivery.backoff.initial: is 0s, must be more than 0s and at most 604800s"},
		{"more than all of it random", `{"name":"p","delivery":{"backoff":{"jitter":1.1}}}`, "delivery.backoff.jitter: is 1.1, must be 0 to 1"},
		{"jitter that is no number", `{"name":"p","delivery":{"backoff":{"jitter":"NaN"}}}`, "delivery.backoff.jitter: is NaN, must be 0 to 1"},
		{"begins above its maximum", `{"name":"p","delivery":{"backoff":{"initial":"2s","max":"1s"}}}`,
			"delivery.backoff.initial: is 2s, longer than delivery.backoff.max, 1s"},
		{"begins above the default maximum", `{"name":"p","delivery":{"backoff":{"initial":"301s"}}}`,
			"delivery.backoff.initial: is 5m1s, longer than delivery.backoff.max, 5m0s"},
		{"more than a week", `{"name":"p","delivery":{"backoff":{"maxElapsed":"604801s"}}}`,
			"delivery.backoff.maxElapsed: is 168h0m1s, must be more than 0s and at most 604800s"},
		{"an unknown strategy", `{"name":"p","delivery":{"backoff":{"strategy":9}}}`, "delivery.backoff.strategy: 9 is not a strategy"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := read(t, tt.spec)
			err := policy.Validate(spec)
			if tt.want == "" {
				if err != nil {
					t.Fatalf("error is %q, want none", err)
				}
				if _, err := policy.Compile(spec); err != nil {
					t.Errorf("valid, but compiling says %q", err)
				}
				return
			}
			if err == nil || err.Error() != tt.want {
				t.Fatalf("error is %v, want %q", err, tt.want)
			}
			field, _, _ := strings.Cut(tt.want, ": ")
			if v := errs.ViolationsOf(err); errs.KindOf(err) != errs.Invalid || len(v) != 1 || v[0].Field != field {
				t.Errorf("error is of kind %v about %v, want %v about %s", errs.KindOf(err), v, errs.Invalid, field)
			}
			if _, err := policy.Compile(spec); errs.KindOf(err) != errs.Invalid {
				t.Errorf("compiling it says %v, want an invalid error", err)
			}
		})
	}
}

// A check that is not made must not seem to be.
func TestAnInterceptorThatIsWrongIsNamed(t *testing.T) {
	t.Parallel()
	err := policy.Validate(read(t, `{"name":"p","security":{"flow":[{"jwt":{}},{"ipFilter":{"mode":"ALLOW"}}]}}`))
	if v := errs.ViolationsOf(err); len(v) != 1 || v[0].Field != "security.flow[1].ipFilter.addresses" {
		t.Errorf("got %v, want a violation of security.flow[1].ipFilter.addresses", err)
	}
}

// S10: 2xx is refused, and so is what is no HTTP status of the two families.
func TestRetryCodesThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, code := range []string{
		"", "2xx", "200", "204", "299", "1xx", "100", "3xx", "301", "399", "600", "6xx", "0", "99", "4", "0400", "+400", "4e2",
		"4XX", "xxx", "40x", "408,429", "408 ", "-50", "५००", "5xx\n",
	} {
		spec := &posthornv1.Policy{Name: "p", Delivery: &posthornv1.Delivery{RetryOn: []string{"503", code}}}
		err := policy.Validate(spec)
		if v := errs.ViolationsOf(err); err == nil || len(v) != 1 || v[0].Field != "delivery.retryOn[1]" {
			t.Errorf("retry code %q: error is %v, want one about delivery.retryOn[1]", code, err)
		}
	}
}

func TestDurationOutOfRangeIsRefused(t *testing.T) {
	t.Parallel()
	spec := &posthornv1.Policy{Name: "p", Delivery: &posthornv1.Delivery{Timeout: &durationpb.Duration{Seconds: math.MaxInt64}}}
	if err := policy.Validate(spec); err == nil || err.Error() != "delivery.timeout: is not a duration" {
		t.Errorf("error is %v, want that delivery.timeout is not a duration", err)
	}
}

func TestCompileFillsInTheDefaults(t *testing.T) {
	t.Parallel()
	want := compile(t, policy.Default())
	if diff := cmp.Diff(&policy.Policy{
		Name: "default", MaxRetries: 5, Timeout: 10 * time.Second,
		Schedule: backoff.Schedule{Strategy: backoff.Exponential, Initial: time.Second, Max: 300 * time.Second, Jitter: 0.2, MaxElapsed: 86400 * time.Second},
	}, want, cmp.FilterPath(func(p cmp.Path) bool { return strings.HasPrefix(p.Last().String(), ".retry") }, cmp.Ignore())); diff != "" {
		t.Errorf("the default differs (-want +got):\n%s", diff)
	}
	for _, spec := range []string{`{"name":"default"}`, `{"name":"default","delivery":{}}`, `{"name":"default","delivery":{"backoff":{}}}`} {
		got := compile(t, read(t, spec))
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(policy.Policy{})); diff != "" {
			t.Errorf("%s differs from the default (-default +got):\n%s", spec, diff)
		}
	}
	zero := compile(t, read(t, `{"name":"p","delivery":{"maxRetries":0,"backoff":{"jitter":0}}}`))
	if zero.MaxRetries != 0 || zero.Schedule.Jitter != 0 {
		t.Errorf("an explicit 0 became %d retries and jitter %v", zero.MaxRetries, zero.Schedule.Jitter)
	}
}

func TestRetryable(t *testing.T) {
	t.Parallel()
	p := compile(t, read(t, `{"name":"p","delivery":{"retryOn":["408","429","5xx","499","400"]}}`))
	for status := -1000; status < 2000; status++ {
		want := status == 408 || status == 429 || status == 499 || status == 400 || status >= 500 && status <= 599
		if got := p.Retryable(status); got != want {
			t.Errorf("status %d retryable: %t, want %t", status, got, want)
		}
	}
}

func TestWhatTheQueueIsTold(t *testing.T) {
	t.Parallel()
	p := compile(t, policy.Default())
	if got := p.MaxDeliver(); got != 6 {
		t.Errorf("delivered %d times, want 6", got)
	}
	if got := p.AckWait(); got != 20*time.Second {
		t.Errorf("ack wait is %v, want 20s", got)
	}
	if got := p.Horizon(); got != 6*20*time.Second+31*time.Second {
		t.Errorf("horizon is %v, want 2m31s", got)
	}
	want := map[string]string{
		"posthorn.policy": "default", "posthorn.retries": "5", "posthorn.timeout": "10s", "posthorn.retry_on": "408 429 5xx",
		"posthorn.schedule": "1s 2s 4s 8s 16s", "posthorn.strategy": "exponential", "posthorn.jitter": "0.2", "posthorn.max_elapsed": "24h0m0s",
	}
	if diff := cmp.Diff(want, p.Describe()); diff != "" {
		t.Errorf("description differs (-want +got):\n%s", diff)
	}
	none := compile(t, read(t, `{"name":"p","delivery":{"maxRetries":0}}`)).Describe()
	if got := none["posthorn.schedule"]; got != "none" {
		t.Errorf("schedule without retries is described as %q, want none", got)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		spec string
		want []string // beginnings
	}{
		{"the default is fine", `{"name":"p"}`, nil},
		{"what does not retry needs no codes", `{"name":"p","delivery":{"maxRetries":0,"retryOn":["404"]}}`, nil},
		{"no sense", `{"name":"p","delivery":{"retryOn":["400","401","403","404","408","429","5xx"]}}`, []string{
			"Retrying on 400 makes no sense: ", "Retrying on 401 makes no sense: ",
			"Retrying on 403 makes no sense: ", "Retrying on 404 makes no sense: ",
		}},
		{"the whole family", `{"name":"p","delivery":{"retryOn":["4xx","5xx"]}}`, []string{"Retrying on all of 4xx makes little sense: "}},
		{"what is missing", `{"name":"p","delivery":{"retryOn":["503"]}}`, []string{
			"You may want to retry on 408 as well: ", "You may want to retry on 429 as well: ", "You may want to retry on 500 as well: ",
			"You may want to retry on 502 as well: ", "You may want to retry on 504 as well: ",
		}},
		{"other codes are anybody's own business", `{"name":"p","delivery":{"retryOn":["408","409","429","5xx"]}}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := policy.Warnings(read(t, tt.spec))
			if len(got) != len(tt.want) {
				t.Fatalf("warnings are %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], tt.want[i]) || !strings.HasSuffix(got[i], ".") {
					t.Errorf("warning %d is %q, want a sentence that begins with %q", i, got[i], tt.want[i])
				}
			}
		})
	}
}

func TestDefaultCanBeChangedWithoutHarm(t *testing.T) {
	t.Parallel()
	d := policy.Default()
	d.Delivery.RetryOn[0] = "404"
	d.Delivery.MaxRetries = proto.Int32(0)
	if proto.Equal(d, policy.Default()) {
		t.Error("a change of what Default returned shows in what it returns next")
	}
}

func read(t *testing.T, text string) *posthornv1.Policy {
	t.Helper()
	spec := new(posthornv1.Policy)
	if err := protojson.Unmarshal([]byte(text), spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func compile(t *testing.T, spec *posthornv1.Policy) *policy.Policy {
	t.Helper()
	p, err := policy.Compile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// An empty list says "none" to a reader, and is the default to protobuf.
func TestAPolicySaysThatItRetriesOnNoStatus(t *testing.T) {
	t.Parallel()
	p := compile(t, read(t, `{"name":"p","delivery":{"retryOn":["none"]}}`))
	for status := range 600 {
		if p.Retryable(status) {
			t.Errorf("status %d is retried, want none", status)
		}
	}
	if got := policy.Warnings(read(t, `{"name":"p","delivery":{"retryOn":["none"]}}`)); len(got) > 0 {
		t.Errorf("warned of %q, want nothing", got)
	}
	for _, doc := range []string{`{"delivery":{"retryOn":[]}}`, `{"delivery":{"retry_on":[ ]}}`} {
		if v := errs.ViolationsOf(policy.ValidDocument([]byte(doc), "draft.")); len(v) != 1 || v[0].Field != "draft.delivery.retryOn" {
			t.Errorf("%s: got %v, want that draft.delivery.retryOn is empty", doc, v)
		}
	}
	for _, doc := range []string{`{}`, `{"delivery":{}}`, `{"delivery":{"retryOn":null}}`, `{"delivery":{"retryOn":["5xx"]}}`, `[]`, `{"delivery":7}`} {
		if err := policy.ValidDocument([]byte(doc), ""); err != nil {
			t.Errorf("%s: %v", doc, err)
		}
	}
}
