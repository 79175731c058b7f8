package dispatcher

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/wire"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	// maxTokens bounds one answer.
	maxTokens = 1000
	// answersAtOnce is how many leases of one request are ended side by side.
	answersAtOnce = 32
	// answerWindow is how many messages of one stream may be at work. Beyond it the
	// stream is not read.
	answerWindow = 64
	// defaultInFlight is how many deliveries a client that does not say has unanswered.
	defaultInFlight = 64
)

// A PullServer is the Deliveries service over gRPC.
type PullServer struct {
	posthornv1.UnimplementedDeliveriesServer
	p *Puller
}

// NewPullServer returns the Deliveries service of p.
func NewPullServer(p *Puller) *PullServer { return &PullServer{p: p} }

// Register adds the service to s.
func (s *PullServer) Register(r grpc.ServiceRegistrar) { posthornv1.RegisterDeliveriesServer(r, s) }

// Fetch is the long poll.
func (s *PullServer) Fetch(ctx context.Context, r *posthornv1.FetchRequest) (*posthornv1.FetchResponse, error) {
	n, wait := int(r.GetMax()), r.GetWait().AsDuration()
	switch {
	case n < 0 || n > MaxFetch:
		return nil, wire.Status(errs.Field("max", "is %d, must be 1 to %d", n, MaxFetch))
	case wait < 0 || wait > MaxWait:
		return nil, wire.Status(errs.Field("wait", "is %s, must be 0 to %s", wait, MaxWait))
	}
	got, err := s.p.next(ctx, r.GetSubscription(), max(n, 1), wait)
	if err != nil {
		return nil, wire.Status(err)
	}
	out := &posthornv1.FetchResponse{Deliveries: make([]*posthornv1.PulledDelivery, len(got))}
	for i := range got {
		out.Deliveries[i] = got[i].message
	}
	return out, nil
}

// Ack settles deliveries that are done.
func (s *PullServer) Ack(ctx context.Context, r *posthornv1.AckRequest) (*posthornv1.AckResponse, error) {
	results, err := each(r.GetTokens(), func(token string) *posthornv1.LeaseResult {
		return result(s.p.ack(ctx, r.GetSubscription(), token))
	})
	return &posthornv1.AckResponse{Results: results}, wire.Status(err)
}

// Nack ends the lease of a delivery that failed.
func (s *PullServer) Nack(ctx context.Context, r *posthornv1.NackRequest) (*posthornv1.NackResponse, error) {
	next, err := s.p.nack(ctx, r.GetSubscription(), r.GetToken(), failure{
		delay: r.GetDelay().AsDuration(), reason: r.GetReason(), dead: r.GetDeadLetter(),
	})
	if err != nil {
		return nil, wire.Status(err)
	}
	return &posthornv1.NackResponse{Result: &posthornv1.LeaseResult{DeadLetter: next.IsZero(), NextAt: wire.Timestamp(next)}}, nil
}

// Extend makes leases last longer.
func (s *PullServer) Extend(_ context.Context, r *posthornv1.ExtendRequest) (*posthornv1.ExtendResponse, error) {
	results, err := each(r.GetTokens(), func(token string) *posthornv1.LeaseResult {
		t, token, err := s.p.extend(r.GetSubscription(), token)
		if err != nil {
			return result(err)
		}
		return &posthornv1.LeaseResult{Token: token, ExpiresAt: wire.Timestamp(t.Until)}
	})
	return &posthornv1.ExtendResponse{Results: results}, wire.Status(err)
}

func result(err error) *posthornv1.LeaseResult {
	if err != nil {
		return &posthornv1.LeaseResult{Error: wire.Refusal(err)}
	}
	return &posthornv1.LeaseResult{}
}

// each calls f for each token, several side by side, and returns the results in order.
func each(tokens []string, f func(token string) *posthornv1.LeaseResult) ([]*posthornv1.LeaseResult, error) {
	if n := len(tokens); n == 0 || n > maxTokens {
		return nil, errs.Field("tokens", "has %d, must have 1 to %d", n, maxTokens)
	}
	results := make([]*posthornv1.LeaseResult, len(tokens))
	slots := make(chan struct{}, answersAtOnce)
	var wg sync.WaitGroup
	for i, token := range tokens {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			results[i] = f(token)
		})
	}
	wg.Wait()
	return results, nil
}

// Receive is the stream.
func (s *PullServer) Receive(st posthornv1.Deliveries_ReceiveServer) error {
	ctx, cancel := context.WithCancel(st.Context())
	defer cancel()
	first, err := st.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	n := int(start.GetMaxInFlight())
	switch {
	case start == nil:
		return wire.Status(errs.Field("start", "is required first: which subscription, and how many deliveries at once"))
	case n < 0 || n > MaxFetch:
		return wire.Status(errs.Field("start.maxInFlight", "is %d, must be 1 to %d, or 0 for %d", n, MaxFetch, defaultInFlight))
	case n == 0:
		n = defaultInFlight
	}
	sub, err := s.p.subscription(start.GetSubscription())
	if err != nil {
		return wire.Status(err)
	}
	if sub.MaxInFlight > 0 {
		n = min(n, sub.MaxInFlight)
	}
	out := &sender{st: st}
	r := s.p.receiver(start.GetSubscription(), n, func(d *posthornv1.PulledDelivery) error {
		return out.send(&posthornv1.ReceiveResponse{Kind: &posthornv1.ReceiveResponse_Delivery{Delivery: d}})
	})
	answered := make(chan error, 1)
	go func() {
		answered <- s.answer(st, r, out)
		cancel() // the client has gone, or broke the rules
	}()
	err = r.run(ctx)
	if st.Context().Err() == nil && ctx.Err() != nil {
		return wire.Status(<-answered) // it ended the stream
	}
	return wire.Status(err)
}

// A sender lets several write to one stream.
type sender struct {
	mu sync.Mutex
	st posthornv1.Deliveries_ReceiveServer
}

func (s *sender) send(m *posthornv1.ReceiveResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.Send(m)
}

// answer takes what a client says on its stream until it ends, and answers in the
// same order. It returns nil if the client has nothing more to say.
func (s *PullServer) answer(st posthornv1.Deliveries_ReceiveServer, r *receiver, out *sender) error {
	turns := make(chan chan *posthornv1.ReceiveResponse, answerWindow)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for turn := range turns {
			// A client that is gone hears nothing; what it said is done all the same.
			_ = out.send(<-turn)
		}
	}()
	defer func() {
		close(turns)
		<-sent
	}()
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.GetStart() != nil || m.GetKind() == nil {
			return errs.Field("start", "comes once, first; what follows is ack, nack or extend")
		}
		if err := s.p.mayAnswer(st.Context()); err != nil {
			return err
		}
		if !r.begin() {
			return nil
		}
		turn := make(chan *posthornv1.ReceiveResponse, 1)
		turns <- turn
		go func() {
			defer r.answers.Done()
			turn <- s.one(st.Context(), r.name, m)
		}()
	}
}

// one takes one message of a stream.
func (s *PullServer) one(ctx context.Context, name string, m *posthornv1.ReceiveRequest) *posthornv1.ReceiveResponse {
	switch m := m.GetKind().(type) {
	case *posthornv1.ReceiveRequest_Ack:
		m.Ack.Subscription = name
		out, err := s.Ack(ctx, m.Ack)
		if err != nil {
			out = &posthornv1.AckResponse{Results: []*posthornv1.LeaseResult{result(wire.Error(err))}}
		}
		return &posthornv1.ReceiveResponse{Kind: &posthornv1.ReceiveResponse_Ack{Ack: out}}
	case *posthornv1.ReceiveRequest_Nack:
		m.Nack.Subscription = name
		out, err := s.Nack(ctx, m.Nack)
		if err != nil {
			out = &posthornv1.NackResponse{Result: result(wire.Error(err))}
		}
		return &posthornv1.ReceiveResponse{Kind: &posthornv1.ReceiveResponse_Nack{Nack: out}}
	case *posthornv1.ReceiveRequest_Extend:
		m.Extend.Subscription = name
		out, err := s.Extend(ctx, m.Extend)
		if err != nil {
			out = &posthornv1.ExtendResponse{Results: []*posthornv1.LeaseResult{result(wire.Error(err))}}
		}
		return &posthornv1.ReceiveResponse{Kind: &posthornv1.ReceiveResponse_Extend{Extend: out}}
	}
	return &posthornv1.ReceiveResponse{}
}
