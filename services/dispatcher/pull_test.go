package dispatcher_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/queue"
	"github.com/posthornhq/posthorn/pkg/seal"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/dispatcher"
)

// pull makes a subscription whose deliveries are fetched, with ackWait.
func (r *rig) pull(doc, ackWait string) {
	r.t.Helper()
	spec := new(posthornv1.Subscription)
	if err := protojson.Unmarshal([]byte(doc), spec); err != nil {
		r.t.Fatal(err)
	}
	dest := new(posthornv1.Destination)
	if err := protojson.Unmarshal(fmt.Appendf(nil, `{"pull":{"ackWait":%q}}`, ackWait), dest); err != nil {
		r.t.Fatal(err)
	}
	spec.Destination, spec.Types = dest, []string{"#"}
	if err := subscription.Validate(spec); err != nil {
		r.t.Fatal(err)
	}
	s, err := subscription.Compile(spec, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.catalog.index.Put(s)
}

// A puller is one process's service, as a client sees it.
type puller struct {
	t *testing.T
	*parts
	*dispatcher.Puller
	posthornv1.DeliveriesClient
	stop func()
}

func (r *rig) puller(mayAnswer func(context.Context) error) *puller {
	r.t.Helper()
	p := r.parts()
	sealer, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		r.t.Fatal(err)
	}
	made, err := dispatcher.NewPuller(dispatcher.Deps{
		Events: r.store, Queue: p.queue, Claims: p.claims, Ledger: p.ledger, Letters: p.letters, Catalog: r.catalog, Log: discard(),
	}, sealer, mayAnswer, dispatcher.Config{})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := made.Run(ctx); err != nil {
			r.t.Errorf("puller: %v", err)
		}
	})
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer()
	dispatcher.NewPullServer(made).Register(srv)
	wg.Go(func() {
		if err := srv.Serve(l); err != nil {
			r.t.Errorf("serve: %v", err)
		}
	})
	conn, err := grpc.NewClient("passthrough:pull", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = conn.Close() // the server ends with it
		cancel()
		srv.Stop()
		wg.Wait()
	})
	return &puller{t: r.t, parts: p, Puller: made, DeliveriesClient: posthornv1.NewDeliveriesClient(conn), stop: cancel}
}

// fetch waits for n deliveries of subscription inbox.
func (p *puller) fetch(n int) []*posthornv1.PulledDelivery {
	p.t.Helper()
	var got []*posthornv1.PulledDelivery
	eventually(p.t, fmt.Sprint(n, " deliveries"), func() bool {
		resp, err := p.Fetch(p.t.Context(), &posthornv1.FetchRequest{Subscription: "inbox", Max: int32(n - len(got)), Wait: durationpb.New(10 * time.Second)})
		if err != nil {
			p.t.Fatal(err)
		}
		got = append(got, resp.GetDeliveries()...)
		return len(got) >= n
	})
	return got
}

func (p *puller) ack(d *posthornv1.PulledDelivery) {
	p.t.Helper()
	resp, err := p.Ack(p.t.Context(), &posthornv1.AckRequest{Subscription: "inbox", Tokens: []string{d.GetToken()}})
	if err != nil || resp.GetResults()[0].GetError() != nil {
		p.t.Fatalf("ack: %v, error %v", resp, err)
	}
}

func (p *puller) nack(d *posthornv1.PulledDelivery, change ...func(*posthornv1.NackRequest)) *posthornv1.LeaseResult {
	p.t.Helper()
	req := &posthornv1.NackRequest{Subscription: "inbox", Token: d.GetToken(), Reason: "no disk"}
	for _, f := range change {
		f(req)
	}
	resp, err := p.Nack(p.t.Context(), req)
	if err != nil {
		p.t.Fatalf("nack: %v", err)
	}
	return resp.GetResult()
}

func TestAFetchedDeliveryIsAnsweredRecordedAndSettled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox","policy":"fast"}`, "60s")
	p := r.puller(nil)
	ev := r.send(p.parts, own("inbox"))
	d := p.fetch(1)[0]
	if d.GetEvent().GetId() != ev.ID || string(d.GetEvent().GetData()) != `{}` || d.GetWebhookId() != ev.ID || d.GetRound() != 1 || d.GetAttempt() != 1 ||
		!d.GetExpiresAt().AsTime().After(time.Now()) || d.GetEvent().GetTraceparent() == "" {
		t.Errorf("got %v", d)
	}
	p.ack(d)
	a := r.attempts(p.parts, ev, 1)[0]
	if a.Outcome != event.Delivered || a.Number != 1 || a.Subscription != "inbox" || a.Destination != "pull" || a.Queued.IsZero() || a.Latency <= 0 {
		t.Errorf("recorded %+v", a)
	}
	r.empty(p.parts)
	p.ack(d) // the client did not hear the first answer
	if got := r.attempts(p.parts, ev, 1); len(got) != 1 {
		t.Errorf("%d attempts are recorded, want one: the second ack is the first", len(got))
	}
	resp, err := p.Fetch(t.Context(), &posthornv1.FetchRequest{Subscription: "inbox"})
	if err != nil || len(resp.GetDeliveries()) != 0 {
		t.Errorf("got %v and error %v, want nothing, at once", resp, err)
	}
}

func TestANackIsTriedAgainByThePolicyAndThenADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox","policy":"fast"}`, "60s")
	p := r.puller(nil)
	ev := r.send(p.parts, own("inbox"))
	for n := 1; n <= 3; n++ {
		d := p.fetch(1)[0]
		if int(d.GetAttempt()) != n {
			t.Fatalf("attempt %d came, want %d", d.GetAttempt(), n)
		}
		if res := p.nack(d); res.GetDeadLetter() != (n == 3) || (res.GetNextAt() == nil) != (n == 3) {
			t.Errorf("nack %d: %v", n, res)
		}
		// Said again, it must not hit the lease that comes after.
		if _, err := p.Nack(t.Context(), &posthornv1.NackRequest{Subscription: "inbox", Token: d.GetToken()}); grpcstatus.Code(err) != codes.Aborted {
			t.Errorf("a second nack: error %v, want that it is over", err)
		}
	}
	l := r.letter(p.parts, ev.ID)
	if l.Reason != "exhausted" || l.Attempts != 3 || l.Detail != "no disk" || l.Source != "shop" {
		t.Errorf("dead letter %+v", l)
	}
	got := r.attempts(p.parts, ev, 3)
	for i, want := range []event.Outcome{event.Retry, event.Retry, event.Exhausted} {
		if got[i].Outcome != want || got[i].Error != "no disk" || got[i].Number != i+1 {
			t.Errorf("attempt %d is %+v, want %s", i+1, got[i], want)
		}
	}
	r.empty(p.parts)
	// A retry by hand is a new round.
	r.enqueue(p.parts, ev.ID, own("inbox"), func(d *event.Delivery) { d.Round = 2 })
	again := p.fetch(1)[0]
	if again.GetRound() != 2 || again.GetAttempt() != 1 {
		t.Errorf("got %v, want the first attempt of round 2", again)
	}
	p.ack(again)
	r.empty(p.parts)
}

func TestANackMaySayWhenOrNever(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "60s")
	p := r.puller(nil)
	first := r.send(p.parts, own("inbox"))
	later := p.nack(p.fetch(1)[0], func(n *posthornv1.NackRequest) { n.Delay = durationpb.New(time.Hour) })
	if in := time.Until(later.GetNextAt().AsTime()); in < 50*time.Minute || in > time.Hour {
		t.Errorf("the next try is in %s, want an hour", in)
	}
	if a := r.attempts(p.parts, first, 1)[0]; a.Outcome != event.Retry || a.NextAt.Before(time.Now().Add(50*time.Minute)) {
		t.Errorf("recorded %+v", a)
	}
	second := r.send(p.parts, own("inbox"))
	d := p.fetch(1)[0]
	if d.GetEvent().GetId() != second.ID {
		t.Fatalf("got %s, want the second: the first waits for its time", d.GetEvent().GetId())
	}
	if res := p.nack(d, func(n *posthornv1.NackRequest) { n.DeadLetter = true }); !res.GetDeadLetter() {
		t.Errorf("got %v, want a dead letter", res)
	}
	if l := r.letter(p.parts, second.ID); l.Reason != "refused" || l.Attempts != 1 {
		t.Errorf("dead letter %+v", l)
	}
	if _, err := p.Nack(t.Context(), &posthornv1.NackRequest{Subscription: "inbox", Token: d.GetToken(), Delay: durationpb.New(25 * time.Hour)}); grpcstatus.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "delay") {
		t.Errorf("a delay of 25h: error %v, want one that names it", err)
	}
}

// Who hears of a dead letter can rely on it: while it cannot be stored, the nack is not
// taken, and may come again.
func TestANackWhoseDeadLetterIsNotStoredIsNotTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "60s")
	p := r.puller(nil)
	ev := r.send(p.parts, own("inbox"))
	d := p.fetch(1)[0]
	never := func(n *posthornv1.NackRequest) { n.DeadLetter = true }
	largest := func(size int32) {
		t.Helper()
		s, err := r.js.Stream(t.Context(), topology.StreamDeadLetters)
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		cfg.MaxMsgSize = size
		if _, err := r.js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	largest(1)
	if _, err := p.Nack(t.Context(), &posthornv1.NackRequest{Subscription: "inbox", Token: d.GetToken(), DeadLetter: true}); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("got error %v, want one that says to send it again", err)
	}
	largest(-1)
	if res := p.nack(d, never); !res.GetDeadLetter() {
		t.Errorf("the second time: got %v, want a dead letter", res)
	}
	r.letter(p.parts, ev.ID)
	r.empty(p.parts)
}

// A lease that runs out is a try; when the last one has, the delivery is a dead letter.
func TestALeaseThatRunsOutIsATry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"twice","delivery":{"maxRetries":1}}`)
	r.pull(`{"name":"inbox","policy":"twice"}`, "1s")
	p := r.puller(nil)
	r.run(p.parts) // its undertaker
	ev := r.send(p.parts, own("inbox"))
	first := p.fetch(1)[0]
	if second := p.fetch(1)[0]; second.GetAttempt() != 2 || second.GetWebhookId() != first.GetWebhookId() {
		t.Errorf("got %v, want the second attempt at the same", second)
	}
	if a := r.attempts(p.parts, ev, 1)[0]; a.Number != 1 || a.Outcome != event.Retry || a.ErrorClass != "timeout" {
		t.Errorf("recorded %+v, want that the first ran out", a)
	}
	if _, err := p.Nack(t.Context(), &posthornv1.NackRequest{Subscription: "inbox", Token: first.GetToken()}); grpcstatus.Code(err) != codes.Aborted {
		t.Errorf("a nack of what ran out: error %v, want that it ran out", err)
	}
	// The server looks at what ran out when somebody asks.
	eventually(t, "it is a dead letter", func() bool {
		resp, err := p.Fetch(t.Context(), &posthornv1.FetchRequest{Subscription: "inbox", Wait: durationpb.New(time.Second)})
		if err != nil || len(resp.GetDeliveries()) > 0 {
			t.Fatalf("got %v and error %v, want nothing: there is no third try", resp, err)
		}
		letters, _, err := p.letters.List(t.Context(), deadletter.Query{Event: ev.ID, Limit: 1})
		return err == nil && len(letters) > 0
	})
	if l := r.letter(p.parts, ev.ID); l.Reason != "max-deliveries" || !strings.Contains(l.Detail, "subscriber") {
		t.Errorf("dead letter %+v", l)
	}
	r.empty(p.parts)
}

// Whoever did the work and answers late must not see it come again for ever.
func TestALateAckIsTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "1s")
	p := r.puller(nil)
	ev := r.send(p.parts, own("inbox"))
	first := p.fetch(1)[0]
	second := p.fetch(1)[0]
	p.ack(first)
	p.ack(second)
	r.empty(p.parts)
	// The second was handed out because the first had run out, which is a fact too.
	if got := r.attempts(p.parts, ev, 2); len(got) != 2 || got[0].Outcome != event.Retry || got[1].Outcome != event.Delivered || got[1].Number != 1 {
		t.Errorf("recorded %+v, want that the first try delivered it, late", got)
	}
}

func TestATokenIsOfNoUseForAnythingElse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "60s")
	r.pull(`{"name":"other"}`, "60s")
	p := r.puller(nil)
	r.send(p.parts, own("inbox"))
	token := p.fetch(1)[0].GetToken()
	for name, req := range map[string]*posthornv1.AckRequest{
		"another subscription":  {Subscription: "other", Tokens: []string{token}},
		"a token with a change": {Subscription: "inbox", Tokens: []string{token[:len(token)-2] + "AA"}},
		"a subject":             {Subscription: "inbox", Tokens: []string{"$JS.ACK.DELIVERIES.x.1.1.1.1.0"}},
		"nothing":               {Subscription: "inbox", Tokens: []string{""}},
	} {
		resp, err := p.Ack(t.Context(), req)
		if err != nil || codes.Code(resp.GetResults()[0].GetError().GetCode()) != codes.InvalidArgument {
			t.Errorf("%s: got %v and error %v, want it refused", name, resp, err)
		}
	}
	if _, err := p.Ack(t.Context(), &posthornv1.AckRequest{Subscription: "inbox"}); grpcstatus.Code(err) != codes.InvalidArgument {
		t.Errorf("without tokens: error %v, want it refused", err)
	}
	if d, err := p.queue.Depth(t.Context()); err != nil || d.Messages != 1 {
		t.Errorf("%d deliveries are queued, error %v; want the one that nobody acked", d.Messages, err)
	}
}

func TestAnyProcessTakesAnAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox","policy":"fast"}`, "60s")
	a, b := r.puller(nil), r.puller(nil)
	ev := r.send(a.parts, own("inbox"))
	b.nack(a.fetch(1)[0])
	d := b.fetch(1)[0]
	ext, err := a.Extend(t.Context(), &posthornv1.ExtendRequest{Subscription: "inbox", Tokens: []string{d.GetToken()}})
	if err != nil || ext.GetResults()[0].GetToken() == "" {
		t.Fatalf("extend: %v, error %v", ext, err)
	}
	d.Token = ext.GetResults()[0].GetToken()
	b.ack(d)
	r.empty(a.parts)
	if got := r.attempts(a.parts, ev, 2); len(got) != 2 || got[1].Outcome != event.Delivered {
		t.Errorf("recorded %+v", got)
	}
}

func TestAnExtendedLeaseLasts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "15s")
	p := r.puller(nil)
	ev := r.send(p.parts, own("inbox"))
	d := p.fetch(1)[0]
	until := d.GetExpiresAt().AsTime().Add(time.Second)
	eventually(t, "the first lease has run out", func() bool {
		resp, err := p.Extend(t.Context(), &posthornv1.ExtendRequest{Subscription: "inbox", Tokens: []string{d.GetToken()}})
		if err != nil || resp.GetResults()[0].GetError() != nil {
			t.Fatalf("extend: %v, error %v", resp, err)
		}
		d.Token = resp.GetResults()[0].GetToken()
		return time.Now().After(until)
	})
	resp, err := p.Fetch(t.Context(), &posthornv1.FetchRequest{Subscription: "inbox"})
	if err != nil || len(resp.GetDeliveries()) != 0 {
		t.Errorf("got %v and error %v, want that it is still leased", resp, err)
	}
	p.nack(d)
	if got := r.attempts(p.parts, ev, 1); got[0].Number != 1 {
		t.Errorf("recorded %+v, want one try", got)
	}
}

// A stream is begun for subscription inbox.
func (p *puller) stream(ctx context.Context, inFlight int) posthornv1.Deliveries_ReceiveClient {
	p.t.Helper()
	st, err := p.Receive(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	start := &posthornv1.ReceiveRequest_Start{Subscription: "inbox", MaxInFlight: int32(inFlight)}
	if err := st.Send(&posthornv1.ReceiveRequest{Kind: &posthornv1.ReceiveRequest_Start_{Start: start}}); err != nil {
		p.t.Fatal(err)
	}
	return st
}

func ackOn(t *testing.T, st posthornv1.Deliveries_ReceiveClient, tokens ...string) {
	t.Helper()
	if err := st.Send(&posthornv1.ReceiveRequest{Kind: &posthornv1.ReceiveRequest_Ack{Ack: &posthornv1.AckRequest{Tokens: tokens}}}); err != nil {
		t.Fatal(err)
	}
}

func recv(t *testing.T, st posthornv1.Deliveries_ReceiveClient) *posthornv1.ReceiveResponse {
	t.Helper()
	m, err := st.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAStreamHasNoMoreUnansweredThanItAskedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "60s")
	p := r.puller(nil)
	for range 10 {
		r.send(p.parts, own("inbox"))
	}
	st := p.stream(t.Context(), 3)
	var got []*posthornv1.PulledDelivery
	for range 3 {
		got = append(got, recv(t, st).GetDelivery())
	}
	leased := func(want int) {
		t.Helper()
		lanes, err := p.queue.Lanes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lanes {
			if l.Lane == queue.Own("inbox", 0) && l.Pending != want {
				t.Errorf("%d deliveries are leased, want %d", l.Pending, want)
			}
		}
	}
	leased(3)
	// On the stream, and beside it.
	ackOn(t, st, got[0].GetToken())
	var fourth, acked bool
	for !fourth || !acked {
		m := recv(t, st)
		fourth, acked = fourth || m.GetDelivery() != nil, acked || m.GetAck() != nil
	}
	p.ack(got[1])
	if m := recv(t, st); m.GetDelivery() == nil {
		t.Errorf("got %v, want the fifth", m)
	}
	leased(3)
}

func TestWhatAStreamLeavesUnansweredComesSoon(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox","policy":"fast"}`, "600s")
	p, other := r.puller(nil), r.puller(nil)
	ev, done := r.send(p.parts, own("inbox")), r.send(p.parts, own("inbox"))
	ctx, cancel := context.WithCancel(t.Context())
	st := p.stream(ctx, 10)
	got := map[string]string{}
	for range 2 {
		d := recv(t, st).GetDelivery()
		got[d.GetEvent().GetId()] = d.GetToken()
	}
	ackOn(t, st, got[done.ID])
	if m := recv(t, st); m.GetAck() == nil {
		t.Fatalf("got %v, want the answer to the ack", m)
	}
	cancel()
	d := other.fetch(1)[0]
	if d.GetEvent().GetId() != ev.ID || d.GetAttempt() != 2 {
		t.Errorf("got %v, want the second attempt at what was not answered", d)
	}
	if a := r.attempts(p.parts, ev, 1)[0]; a.Outcome != event.Retry || a.ErrorClass != "closed" {
		t.Errorf("recorded %+v", a)
	}
	other.ack(d)
	r.empty(p.parts)
}

// A client that says its last answers and closes is heard to the end.
func TestAStreamThatIsClosedTakesTheAnswersBefore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "600s")
	p := r.puller(nil)
	var all []*event.Event
	for range 20 {
		all = append(all, r.send(p.parts, own("inbox")))
	}
	st := p.stream(t.Context(), len(all))
	for range all {
		ackOn(t, st, recv(t, st).GetDelivery().GetToken())
	}
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	answers := 0
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.GetAck() != nil {
			answers++
		}
	}
	if answers != len(all) {
		t.Errorf("%d answers, want %d", answers, len(all))
	}
	r.empty(p.parts)
	for _, ev := range all {
		if got := r.attempts(p.parts, ev, 1); len(got) != 1 || got[0].Outcome != event.Delivered {
			t.Errorf("recorded %+v, want that it was delivered", got)
		}
	}
}

// A process that stops sends its clients away; what they have they can answer elsewhere.
func TestAProcessThatStopsLeavesTheLeases(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "600s")
	p, other := r.puller(nil), r.puller(nil)
	ev := r.send(p.parts, own("inbox"))
	st := p.stream(t.Context(), 1)
	d := recv(t, st).GetDelivery()
	p.stop()
	if _, err := st.Recv(); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("got error %v, want that the process stops", err)
	}
	other.ack(d)
	r.empty(p.parts)
	if got := r.attempts(p.parts, ev, 1); len(got) != 1 || got[0].Outcome != event.Delivered {
		t.Errorf("recorded %+v", got)
	}
}

func TestWhatCannotBeFetchedSaysWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"off","disabled":true}`, "60s")
	p := r.puller(nil)
	for _, tt := range []struct {
		req  *posthornv1.FetchRequest
		code codes.Code
		says string
	}{
		{&posthornv1.FetchRequest{}, codes.InvalidArgument, "subscription"},
		{&posthornv1.FetchRequest{Subscription: "nobody"}, codes.NotFound, "no subscription"},
		{&posthornv1.FetchRequest{Subscription: "s"}, codes.InvalidArgument, "destination.pull"},
		{&posthornv1.FetchRequest{Subscription: "off"}, codes.AlreadyExists, "disabled"},
		{&posthornv1.FetchRequest{Subscription: "off", Max: 1001}, codes.InvalidArgument, "max"},
		{&posthornv1.FetchRequest{Subscription: "off", Wait: durationpb.New(time.Minute)}, codes.InvalidArgument, "wait"},
	} {
		if _, err := p.Fetch(t.Context(), tt.req); grpcstatus.Code(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%v: error %v, want %s about %q", tt.req, err, tt.code, tt.says)
		}
	}
	st, err := p.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ackOn(t, st, "x")
	if _, err := st.Recv(); grpcstatus.Code(err) != codes.InvalidArgument {
		t.Errorf("a stream that does not begin with start: error %v", err)
	}
}

func TestAPausedSubscriptionHandsOutNothingUntilItIsResumed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox","paused":true}`, "60s")
	p := r.puller(nil)
	ev := r.send(p.parts, own("inbox"))
	if resp, err := p.Fetch(t.Context(), &posthornv1.FetchRequest{Subscription: "inbox", Wait: durationpb.New(50 * time.Millisecond)}); err != nil || len(resp.GetDeliveries()) != 0 {
		t.Fatalf("got %v and error %v, want nothing", resp, err)
	}
	st := p.stream(t.Context(), 1)
	r.pull(`{"name":"inbox"}`, "60s")
	p.CatalogChanged()
	if d := recv(t, st).GetDelivery(); d.GetEvent().GetId() != ev.ID {
		t.Errorf("got %v", d)
	}
	// Deleted under the stream, it ends.
	r.catalog.index.Delete("inbox")
	p.CatalogChanged()
	for {
		if _, err := st.Recv(); err != nil {
			if c := grpcstatus.Code(err); c != codes.NotFound {
				t.Errorf("got error %v, want that there is no such subscription", err)
			}
			break
		}
	}
}

func TestSettingsReachTheLane(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox","policy":"fast"}`, "60s")
	p := r.puller(nil)
	r.send(p.parts, own("inbox"))
	p.nack(p.fetch(1)[0], func(n *posthornv1.NackRequest) { n.DeadLetter = true })
	check := func(maxDeliver int, ackWait time.Duration) {
		t.Helper()
		c, err := r.js.Consumer(t.Context(), topology.StreamDeliveries, queue.Own("inbox", 0).String())
		if err != nil {
			t.Fatal(err)
		}
		if cfg := c.CachedInfo().Config; cfg.MaxDeliver != maxDeliver || cfg.AckWait != ackWait {
			t.Errorf("the lane has MaxDeliver %d and AckWait %s, want %d and %s", cfg.MaxDeliver, cfg.AckWait, maxDeliver, ackWait)
		}
	}
	check(3, time.Minute)
	r.catalog.put(t, `{"name":"fast","delivery":{"maxRetries":7}}`)
	r.pull(`{"name":"inbox","policy":"fast"}`, "120s")
	p.CatalogChanged()
	if _, err := p.Fetch(t.Context(), &posthornv1.FetchRequest{Subscription: "inbox"}); err != nil {
		t.Fatal(err)
	}
	check(8, 2*time.Minute)
	// Somebody deleted the consumer.
	if err := r.js.DeleteConsumer(t.Context(), topology.StreamDeliveries, queue.Own("inbox", 0).String()); err != nil {
		t.Fatal(err)
	}
	r.send(p.parts, own("inbox"))
	p.ack(p.fetch(1)[0])
}

func TestAnEventThatIsMissingIsADeadLetterAndNotHandedOut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "60s")
	p := r.puller(nil)
	missing := store.NewID()
	r.enqueue(p.parts, missing, own("inbox"))
	there := r.send(p.parts, own("inbox"))
	if d := p.fetch(1)[0]; d.GetEvent().GetId() != there.ID {
		t.Errorf("got %v", d)
	}
	if l := r.letter(p.parts, missing); l.Reason != "missing" {
		t.Errorf("dead letter %+v", l)
	}
}

func TestAnOrderedSubscriptionIsFetchedOneAtATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox","policy":"fast","ordered":true}`, "60s")
	p := r.puller(nil)
	var want []string
	for range 5 {
		want = append(want, r.send(p.parts, own("inbox")).ID)
	}
	for i, id := range want {
		resp, err := p.Fetch(t.Context(), &posthornv1.FetchRequest{Subscription: "inbox", Max: 5, Wait: durationpb.New(20 * time.Second)})
		if err != nil || len(resp.GetDeliveries()) != 1 || resp.GetDeliveries()[0].GetEvent().GetId() != id {
			t.Fatalf("fetch %d: got %v and error %v, want %s alone", i, resp, err, id)
		}
		d := resp.GetDeliveries()[0]
		if i == 2 { // nothing passes one that failed
			p.nack(d)
			d = p.fetch(1)[0]
			if d.GetEvent().GetId() != id || d.GetAttempt() != 2 {
				t.Fatalf("got %v, want %s again", d, id)
			}
		}
		p.ack(d)
	}
}

// Who may only read gets deliveries, but settles none on the stream.
func TestAStreamTakesAnswersFromThoseWhoMay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "60s")
	p := r.puller(func(context.Context) error {
		return grpcstatus.Error(codes.PermissionDenied, "role deliveries:write is missing")
	})
	r.send(p.parts, own("inbox"))
	st := p.stream(t.Context(), 1)
	ackOn(t, st, recv(t, st).GetDelivery().GetToken())
	if _, err := st.Recv(); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("got error %v, want that the role is missing", err)
	}
}

// Clients share a subscription: each delivery is one's.
func TestClientsOfASubscriptionShareItsDeliveries(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pull(`{"name":"inbox"}`, "600s")
	pullers := []*puller{r.puller(nil), r.puller(nil)}
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	times, by := map[string]int{}, [2]int{}
	var wg sync.WaitGroup
	for i, p := range pullers {
		st := p.stream(ctx, 8)
		wg.Go(func() {
			for {
				m, err := st.Recv()
				if err != nil {
					return
				}
				d := m.GetDelivery()
				if d == nil {
					continue
				}
				mu.Lock()
				times[d.GetEvent().GetId()]++
				by[i]++
				mu.Unlock()
				if err := st.Send(&posthornv1.ReceiveRequest{Kind: &posthornv1.ReceiveRequest_Ack{Ack: &posthornv1.AckRequest{Tokens: []string{d.GetToken()}}}}); err != nil {
					return
				}
			}
		})
	}
	n := 0
	send := func() {
		r.send(pullers[0].parts, own("inbox"))
		n++
	}
	for range 300 {
		send()
	}
	// One may be late, and the other fast.
	within(t, 2*time.Minute, "both have some", func() bool {
		mu.Lock()
		both := by[0] > 0 && by[1] > 0
		mu.Unlock()
		if !both {
			send()
		}
		return both
	})
	r.empty(pullers[0].parts)
	cancel()
	wg.Wait()
	if len(times) != n || by[0]+by[1] != n {
		t.Errorf("%d deliveries came %d + %d times, want %d once each", len(times), by[0], by[1], n)
	}
}
