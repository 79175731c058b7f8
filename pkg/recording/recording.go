package recording

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/stream"
)

// Most is how many requests of one source there can be.
const Most = 2 * topology.RequestsPerSource

// A Request is what is kept of one.
type Request struct {
	Source  string `json:"source"`
	Context string `json:"context"`
	// Policy is the one that the source had.
	Policy string    `json:"policy,omitempty"`
	At     time.Time `json:"at"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	// Query has the names of parameters, Header and Cookies what [Strip] leaves.
	Query   []string          `json:"query,omitempty"`
	Header  map[string]string `json:"header,omitempty"`
	Cookies []string          `json:"cookies,omitempty"`
	// Client is who sent it; the zero Addr if that was not known.
	Client netip.Addr `json:"client"`
	// Size of the body in bytes, -1 if it was not announced.
	Size int64 `json:"size"`
	// Answered is the status that it got.
	Answered  int                    `json:"answered"`
	Decisions []interceptor.Decision `json:"decisions,omitempty"`
}

// Past returns the request as [interceptor.Flow.Replay] takes it.
func (r *Request) Past() *interceptor.Past {
	h := make(http.Header, len(r.Header)+1)
	for name, value := range r.Header {
		h.Set(name, value)
	}
	cookies := make([]string, len(r.Cookies))
	for i, name := range r.Cookies {
		cookies[i] = name + "=" + interceptor.Stripped
	}
	if len(cookies) > 0 {
		h.Set("Cookie", strings.Join(cookies, "; "))
	}
	query := url.Values{}
	for _, name := range r.Query {
		query.Set(name, interceptor.Stripped)
	}
	return &interceptor.Past{
		Request:   interceptor.Request{RawQuery: query.Encode(), Header: h, Client: r.Client, Context: r.Context, Now: r.At},
		Decisions: r.Decisions, Answered: r.Answered,
	}
}

// Config holds what may be tuned. The zero value is usable.
type Config struct {
	// Enabled says whether anything is to be recorded. nil is always.
	Enabled func() bool
	// TakenEvery and RefusedEvery are the pauses between two recorded requests of a
	// source that were taken, or refused. Default 1s and 200ms.
	TakenEvery, RefusedEvery time.Duration
	// PerSecond bounds the requests of all sources together. Default 50.
	PerSecond float64
}

const (
	// waiting is how many requests may wait to be written.
	waiting = 128
	// writeTimeout bounds the writing of one; the next may do better.
	writeTimeout = 2 * time.Second
)

// A Recorder writes requests down. It is safe for concurrent use.
type Recorder struct {
	pub    *stream.Publisher
	log    *slog.Logger
	cfg    Config
	queue  chan *Request
	budget *rate.Limiter
	paces  sync.Map // source → *pace
}

// A pace is when the next of a source's requests is due, in Unix nanoseconds.
type pace struct{ taken, refused atomic.Int64 }

// New returns a Recorder. It writes nothing before [Recorder.Run].
func New(pub *stream.Publisher, log *slog.Logger, cfg Config) (*Recorder, error) {
	if pub == nil || log == nil {
		return nil, errors.New("recording: a publisher and a log are needed")
	}
	if cfg.TakenEvery < 0 || cfg.RefusedEvery < 0 || cfg.PerSecond < 0 {
		return nil, errors.New("recording: a limit is negative")
	}
	if cfg.TakenEvery == 0 {
		cfg.TakenEvery = time.Second
	}
	if cfg.RefusedEvery == 0 {
		cfg.RefusedEvery = 200 * time.Millisecond
	}
	if cfg.PerSecond == 0 {
		cfg.PerSecond = 50
	}
	return &Recorder{
		pub: pub, log: log, cfg: cfg, queue: make(chan *Request, waiting),
		budget: rate.NewLimiter(rate.Limit(cfg.PerSecond), max(1, int(2*cfg.PerSecond))),
	}, nil
}

// Due reports whether a request of a source is one for the sample. Most are not,
// and then it takes some nanoseconds.
func (r *Recorder) Due(source string, refused bool, now time.Time) bool {
	v, ok := r.paces.Load(source)
	if !ok {
		v, _ = r.paces.LoadOrStore(source, new(pace))
	}
	p, _ := v.(*pace)
	due, every := &p.taken, r.cfg.TakenEvery
	if refused {
		due, every = &p.refused, r.cfg.RefusedEvery
	}
	next := due.Load()
	if now.UnixNano() < next || r.cfg.Enabled != nil && !r.cfg.Enabled() {
		return false
	}
	// Of many at once it is due for one.
	return due.CompareAndSwap(next, now.Add(every).UnixNano()) && r.budget.AllowN(now, 1)
}

// Offer gives a request to be written. It does not wait.
func (r *Recorder) Offer(req *Request) {
	select {
	case r.queue <- req:
	default: // it is a sample
	}
}

// Run writes what is offered until ctx is done.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case req := <-r.queue:
			if err := r.write(ctx, req); err != nil && ctx.Err() == nil {
				r.log.Debug("a request was not recorded", "source", req.Source, "err", err)
			}
		}
	}
}

func (r *Recorder) write(ctx context.Context, req *Request) error {
	data, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("recording: encode a request of %s: %w", req.Source, err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	refused := req.Answered >= http.StatusBadRequest
	if _, err := r.pub.Publish(ctx, &nats.Msg{Subject: topology.RequestSubject(req.Source, refused), Data: data}); err != nil {
		return fmt.Errorf("recording: write a request of %s: %w", req.Source, err)
	}
	return nil
}

// A Reader reads what recorders have written, in this process and in others.
type Reader struct{ js jetstream.JetStream }

// NewReader returns a Reader.
func NewReader(js jetstream.JetStream) *Reader { return &Reader{js: js} }

// Last returns at most n requests of a source, newest first.
func (r *Reader) Last(ctx context.Context, source string, n int) ([]Request, error) {
	var all []Request
	err := stream.Each(ctx, r.js, topology.StreamRequests, topology.RequestFilter(source), time.Time{}, Most,
		func(m *jetstream.RawStreamMsg) error {
			var req Request
			if err := json.Unmarshal(m.Data, &req); err != nil {
				return fmt.Errorf("recording: decode request %d: %w", m.Sequence, err)
			}
			all = append(all, req)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("recording: read the requests of %s: %w", source, err)
	}
	slices.SortStableFunc(all, func(a, b Request) int { return b.At.Compare(a.At) })
	return all[:min(n, len(all))], nil
}
