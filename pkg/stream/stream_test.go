package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/stream"
)

func publisher(t *testing.T, js jetstream.JetStream) *stream.Publisher {
	t.Helper()
	p, err := stream.New(js.Conn())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func create(t *testing.T, js jetstream.JetStream, cfg jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	cfg.Name, cfg.Subjects, cfg.AllowDirect = "S", []string{"s.>"}, true
	s, err := js.CreateStream(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// As during an election: nobody answers, and then somebody does.
func TestAPublishOutlivesAStreamThatIsAway(t *testing.T) {
	t.Parallel()
	js := jstest.New(t)
	w := publisher(t, js).Start(&nats.Msg{Subject: "s.a", Header: nats.Header{jetstream.MsgIDHeader: {"1"}}, Data: []byte("x")})
	type result struct {
		ack *jetstream.PubAck
		err error
	}
	done := make(chan result, 1)
	go func() {
		ack, err := w.Wait(t.Context())
		done <- result{ack, err}
	}()
	select {
	case r := <-done:
		t.Fatalf("the publish ended with %v and error %v, want it to wait for its stream", r.ack, r.err)
	case <-time.After(300 * time.Millisecond):
	}
	create(t, js, jetstream.StreamConfig{})
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.ack.Sequence != 1 {
		t.Errorf("the sequence is %d, want 1", r.ack.Sequence)
	}
}

func TestAPublishEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := publisher(t, jstest.New(t)).Publish(ctx, &nats.Msg{Subject: "s.a"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want the context's", err)
	}
}

func TestAFullStreamIsToldFromOtherRefusals(t *testing.T) {
	t.Parallel()
	js := jstest.New(t)
	s := create(t, js, jetstream.StreamConfig{MaxBytes: 1000, Discard: jetstream.DiscardNew})
	p := publisher(t, js)
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "s.a"}); err != nil {
		t.Fatal(err)
	}
	w := p.Start(&nats.Msg{Subject: "s.a", Data: make([]byte, 900)})
	if _, err := w.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Again()
	if _, err := w.Wait(t.Context()); errs.KindOf(err) != errs.Full || errs.ReasonOf(err) != "full" || !stream.IsFull(err) {
		t.Errorf("a full stream: got error %v, want one of kind full", err)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Again()
	if _, err := w.Wait(t.Context()); err != nil {
		t.Errorf("the same publish after there was room: %v", err)
	}
	_, err := p.Publish(t.Context(), &nats.Msg{Subject: "s.a", Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"7"}}})
	if !stream.WrongSequence(err) || stream.IsFull(err) || errs.KindOf(err) != errs.Internal {
		t.Errorf("a wrong sequence: got error %v, want the server's own", err)
	}
}

func TestTemporary(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		want bool
	}{
		{"no responders", fmt.Errorf("x: %w", nats.ErrNoResponders), true},
		{"no stream yet", jetstream.ErrNoStreamResponse, true},
		{"an ack that did not come", jetstream.ErrAsyncPublishTimeout, true},
		{"a write in flight", &jetstream.APIError{ErrorCode: 10164}, true},
		{"a wrong last sequence", &jetstream.APIError{ErrorCode: 10071}, false},
		{"full", &jetstream.APIError{ErrorCode: 10077}, false},
		{"a closed connection", nats.ErrConnectionClosed, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := stream.Temporary(tt.err); got != tt.want {
				t.Errorf("temporary(%v) is %v, want %v", tt.err, got, tt.want)
			}
		})
	}
}

// fill publishes n messages on s.a and s.b in turn.
func fill(t *testing.T, js jetstream.JetStream, n, size int) {
	t.Helper()
	p := publisher(t, js)
	for i := range n {
		data := strings.Repeat(" ", size) + strconv.Itoa(i+1)
		if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "s." + string("ab"[i%2]), Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEachReadsAllInOrder(t *testing.T) {
	t.Parallel()
	js := jstest.New(t)
	s := create(t, js, jetstream.StreamConfig{})
	each := func(name string, f func(func(*jetstream.RawStreamMsg) error) error, want []uint64) {
		t.Helper()
		var got []uint64
		if err := f(func(m *jetstream.RawStreamMsg) error { got = append(got, m.Sequence); return nil }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	type f = func(*jetstream.RawStreamMsg) error
	each("an empty stream", func(f f) error { return stream.Each(t.Context(), js, "S", "s.>", time.Time{}, 3, f) }, nil)
	fill(t, js, 10, 0)
	if err := s.DeleteMsg(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	for _, batch := range []int{1, 3, 5, 100} {
		each(fmt.Sprint("all by ", batch), func(f f) error { return stream.Each(t.Context(), js, "S", "s.>", time.Time{}, batch, f) },
			[]uint64{1, 2, 3, 5, 6, 7, 8, 9, 10})
		each(fmt.Sprint("one subject by ", batch), func(f f) error { return stream.Each(t.Context(), js, "S", "s.b", time.Time{}, batch, f) },
			[]uint64{2, 6, 8, 10})
		each(fmt.Sprint("by the leader from 3 by ", batch), func(f f) error { return stream.EachByLeader(t.Context(), js, "S", "s.>", 3, batch, f) },
			[]uint64{3, 5, 6, 7, 8, 9, 10})
	}
	stop := errors.New("stop")
	if err := stream.Each(t.Context(), js, "S", "s.>", time.Time{}, 3, func(*jetstream.RawStreamMsg) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the callback: got %v, want it back", err)
	}
}

// A batch also ends by its bytes.
func TestReadingGoesOnWhereABatchWasCut(t *testing.T) {
	t.Parallel()
	js := jstest.New(t)
	create(t, js, jetstream.StreamConfig{})
	fill(t, js, 20, 1<<20)
	n := 0
	if err := stream.Each(t.Context(), js, "S", "s.>", time.Time{}, 1000, func(*jetstream.RawStreamMsg) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	if n != 20 {
		t.Errorf("forwards: read %d messages, want 20", n)
	}
	want := uint64(20)
	if _, err := stream.Backwards(t.Context(), js, "S", "s.>", 0, func(m *jetstream.RawStreamMsg) (bool, error) {
		if m.Sequence != want {
			t.Errorf("backwards: got message %d, want %d", m.Sequence, want)
		}
		want--
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	if want != 0 {
		t.Errorf("backwards: ended before message %d, want before 0", want)
	}
}

// Whoever reads must not take what came before the end of its time for all.
func TestReadingThatRunsOutOfTimeIsAnError(t *testing.T) {
	t.Parallel()
	js := jstest.New(t)
	create(t, js, jetstream.StreamConfig{})
	fill(t, js, 2, 0)
	ctx, cancel := context.WithCancel(t.Context())
	err := stream.Each(ctx, js, "S", "s.>", time.Time{}, 1, func(*jetstream.RawStreamMsg) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended with error %v, want the context's", err)
	}
	nobody, err := js.Conn().SubscribeSync("$JS.API.DIRECT.GET.AWAY") // hears, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nobody.Unsubscribe() }()
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = stream.Each(ctx, js, "AWAY", ">", time.Time{}, 1, func(*jetstream.RawStreamMsg) error { return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an answer it ended with error %v, want the context's", err)
	}
}

func TestBackwardsPagesFromTheNewest(t *testing.T) {
	t.Parallel()
	js := jstest.New(t)
	s := create(t, js, jetstream.StreamConfig{})
	page := func(subject string, before uint64, limit int) (got []uint64, next uint64) {
		t.Helper()
		next, err := stream.Backwards(t.Context(), js, "S", subject, before, func(m *jetstream.RawStreamMsg) (bool, error) {
			got = append(got, m.Sequence)
			return len(got) < limit, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got, next
	}
	if got, next := page("s.>", 0, 5); len(got) != 0 || next != 0 {
		t.Errorf("an empty stream: got %v and next %d, want nothing", got, next)
	}
	fill(t, js, 1300, 0) // more than two windows
	if err := s.DeleteMsg(t.Context(), 1299); err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(11)); err != nil {
		t.Fatal(err)
	}
	got, next := page("s.>", 0, 2)
	if diff := cmp.Diff([]uint64{1300, 1298}, got); diff != "" || next != 1298 {
		t.Errorf("the first page (next %d, want 1298) (-want +got):\n%s", next, diff)
	}
	var all []uint64
	for next = 0; ; {
		got, n := page("s.b", next, 100)
		all = append(all, got...)
		if next = n; next == 0 {
			break
		}
	}
	var want []uint64
	for i := uint64(1300); i > 10; i -= 2 {
		want = append(want, i)
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("all pages of one subject (-want +got):\n%s", diff)
	}
}

func TestGetFindsTheMessageOrSaysThatThereIsNone(t *testing.T) {
	t.Parallel()
	js := jstest.New(t)
	create(t, js, jetstream.StreamConfig{})
	want := &nats.Msg{Subject: "s.a", Header: nats.Header{"K": {"v"}, "KV-Operation": {"DEL"}}, Data: []byte("x\x00")}
	if _, err := publisher(t, js).Publish(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	nc := js.Conn()
	for name, get := range map[string]func(present bool) (*stream.Message, error){
		"last": func(p bool) (*stream.Message, error) { return stream.GetLast(t.Context(), nc, "S", subject(p)) },
		"last from the leader": func(p bool) (*stream.Message, error) {
			return stream.GetLastFromLeader(t.Context(), nc, "S", subject(p))
		},
		"by sequence": func(p bool) (*stream.Message, error) {
			seq := uint64(1)
			if !p {
				seq = 2
			}
			return stream.GetFromLeader(t.Context(), nc, "S", seq)
		},
	} {
		m, err := get(true)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Sequence != 1 || string(m.Data) != "x\x00" || m.Header.Get("K") != "v" || !m.Removed() || m.Time.IsZero() {
			t.Errorf("%s: got %+v", name, m)
		}
		if m, err := get(false); !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("%s of nothing: got %v and error %v, want ErrNotFound", name, m, err)
		}
	}
}

func subject(present bool) string {
	if present {
		return "s.a"
	}
	return "s.c"
}

// The server ends the connection of whoever sends too long a line, and with it all
// that is under way there.
func TestASubjectThatIsTooLongCostsNobodyTheConnection(t *testing.T) {
	t.Parallel()
	js := jstest.New(t)
	create(t, js, jetstream.StreamConfig{})
	p := publisher(t, js)
	long := "s." + strings.Repeat("a", 5000)
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: long}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("publish: got error %v, want one of kind invalid", err)
	}
	if _, err := stream.GetLast(t.Context(), js.Conn(), "S", long); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("get: got error %v, want that it is not there", err)
	}
	// The longest that is let through is one that the server takes.
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "s." + strings.Repeat("a", 3400)}); err != nil {
		t.Errorf("publish to a subject that is just short enough: %v", err)
	}
	if _, err := p.Publish(t.Context(), &nats.Msg{Subject: "s.a"}); err != nil {
		t.Errorf("the next publish: %v", err)
	}
}
