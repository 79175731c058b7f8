package policy_test

import (
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/policy"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// What Validate takes can be compiled and lived by; what it does not take is the
// user's mistake, and never ours.
func FuzzPolicy(f *testing.F) {
	for _, s := range []string{
		`{"name":"p"}`, `{"name":"p","delivery":{"maxRetries":10,"timeout":"30s","retryOn":["4xx","503"],"backoff":{"strategy":"LINEAR","initial":"0.001s","max":"604800s","jitter":1}}}`,
		`{"name":"p","delivery":{"backoff":{"strategy":"LOGARITHMIC","maxElapsed":"1s"}}}`, `{"name":"p","delivery":{"retryOn":["2xx",""]}}`,
		`{"name":"p","security":{"flow":[{"jwt":{}},{"ipFilter":{"mode":"ALLOW","addresses":["::/0,10.0.0.0/8"]}},{"jsonField":{"path":"/a~1b/0"}}]}}`,
		`{"name":"p","delivery":{"timeout":"-1s","backoff":{"jitter":"NaN","initial":"315576000000s"}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		spec := new(posthornv1.Policy)
		if protojson.Unmarshal(doc, spec) != nil {
			return
		}
		if err := policy.Validate(spec); err != nil {
			if errs.KindOf(err) != errs.Invalid || len(errs.ViolationsOf(err)) != 1 {
				t.Errorf("refused with %v of kind %v, want Invalid and one field", err, errs.KindOf(err))
			}
			return
		}
		p, err := policy.Compile(spec)
		if err != nil {
			t.Fatalf("valid, and not compiled: %v", err)
		}
		if p.MaxDeliver() < 1 || p.MaxDeliver() > 11 || p.AckWait() <= 0 || p.Horizon() < 0 {
			t.Errorf("delivers %d times with an ack wait of %v and a horizon of %v", p.MaxDeliver(), p.AckWait(), p.Horizon())
		}
		for i, d := range p.Schedule.Preview(p.MaxRetries) {
			if d < 0 || d > p.Schedule.Max {
				t.Errorf("wait %d is %v, want 0 to %v", i, d, p.Schedule.Max)
			}
		}
		policy.Warnings(spec)
		policy.NameInterceptors(spec.GetSecurity().GetFlow())
	})
}
