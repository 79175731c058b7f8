package stream_test

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/pkg/stream"
	"github.com/posthornhq/posthorn/pkg/stream/streamtest"
)

// Not in parallel: the count is that of the process.
func TestWhatJetStreamDoesNotDoIsCounted(t *testing.T) {
	js := jstest.New(t)
	create(t, js, jetstream.StreamConfig{MaxMsgs: 1, Discard: jetstream.DiscardNew})
	p := publisher(t, js)
	before := streamtest.Failures(t)
	if len(before) != 5 {
		t.Errorf("counted are %v, want publish, get, read, bucket and claim from the beginning", before)
	}
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "s.a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Get(t.Context(), js.Conn(), "S", 7); err == nil {
		t.Error("a message that is not there was got")
	}
	if after := streamtest.Failures(t); after["publish"] != before["publish"] || after["get"] != before["get"] {
		t.Errorf("what went well is counted: %v, then %v", before, after)
	}
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "s.b"}); err == nil {
		t.Error("a full stream took a message")
	}
	if _, err := stream.Get(t.Context(), js.Conn(), "T", 1); err == nil {
		t.Error("a stream that is not there was read")
	}
	if after := streamtest.Failures(t); after["publish"] != before["publish"]+1 || after["get"] != before["get"]+1 {
		t.Errorf("counted are %v, before %v, want one publish and one get more", after, before)
	}
}
