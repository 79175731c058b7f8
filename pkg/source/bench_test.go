package source

import (
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/rawjson"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// document returns a JSON object of about n bytes with an action.
func document(n int) string {
	var b strings.Builder
	b.WriteString(`{"action":"opened"`)
	for b.Len() < n-30 {
		b.WriteString(`,"key":{"id":12345,"ok":true}`)
	}
	return b.String() + "}"
}

func BenchmarkReceiveGeneric512B(b *testing.B) {
	s := compile(b, &posthornv1.Source{Kind: posthornv1.Source_GENERIC})
	r := request(document(512), "Content-Type: application/json", "Idempotency-Key: k-1").to("order.created")
	benchmark(b, s, r)
}

// What of the above is the check that JSON is JSON.
func BenchmarkValidJSON512B(b *testing.B) {
	body := []byte(document(512))
	b.ReportAllocs()
	for b.Loop() {
		if !rawjson.Valid(body) {
			b.Fatal("not valid")
		}
	}
}

func BenchmarkReceiveGitHub8KiB(b *testing.B) {
	s := compile(b, &posthornv1.Source{Kind: posthornv1.Source_GITHUB}, githubSecret)
	benchmark(b, s, fromGitHub(document(8<<10), "issues", "Content-Type: application/json"))
}

func BenchmarkReceiveStructured512B(b *testing.B) {
	benchmark(b, cloudEventsSource(b), request(envelope(`,"data":`+document(400)), structuredType))
}

func BenchmarkReceiveAuth0Lines100(b *testing.B) {
	s := compile(b, &posthornv1.Source{Kind: posthornv1.Source_AUTH0}, auth0Secret)
	benchmark(b, s, fromAuth0(strings.Repeat(auth0Record("1", "s")+"\n", 100)))
}

func benchmark(b *testing.B, s *Source, r *Request) {
	b.ReportAllocs()
	b.SetBytes(int64(len(r.Body)))
	for b.Loop() {
		if _, err := s.Receive(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReceiveStripe8KiB(b *testing.B) {
	s := compile(b, &posthornv1.Source{Kind: posthornv1.Source_STRIPE, Type: "t"}, stripeSecret)
	benchmark(b, s, fromStripe(document(8<<10)))
}

func BenchmarkReceiveStandardWebhooks8KiB(b *testing.B) {
	s := compile(b, &posthornv1.Source{Kind: posthornv1.Source_STANDARD_WEBHOOKS, Type: "t"}, standardSecret)
	benchmark(b, s, fromStandard(b, standardSecret, "webhook", document(8<<10)))
}

func BenchmarkReceiveTwilioForm(b *testing.B) {
	s := compile(b, &posthornv1.Source{Kind: posthornv1.Source_TWILIO, Type: "t"}, twilioToken)
	benchmark(b, s, fromTwilio(twilioVector))
}
