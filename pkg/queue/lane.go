package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/posthornhq/posthorn/jetstream/topology"
)

const (
	// pullExpires is how long the server keeps a pull request that it cannot
	// fill. When it has run out unheard, by grace, the request is taken for lost.
	pullExpires = 30 * time.Second
	pullGrace   = 5 * time.Second
	// pullRetry is the pause after the server refused a pull.
	pullRetry = 250 * time.Millisecond
	// drainWait bounds the wait for messages that are on their way at the end,
	// and quiet is how long none must have come.
	drainWait = 5 * time.Second
	quiet     = 50 * time.Millisecond
)

// ErrNoLane says that the lane has no consumer (any more).
var ErrNoLane = errors.New("queue: the lane has no consumer")

// Consume hands out the leases of a lane, each to a call of handle in a
// goroutine of its own, at most slots at once, until ctx is done. It then hands
// out what the server has already sent, which counts as tries, waits for all
// calls, and returns nil. It returns an error only if the lane cannot go on,
// [ErrNoLane] if it has no consumer.
//
// A slot is taken before a message is asked for: a lease that waits for a slot
// is running out.
func (q *Queue) Consume(ctx context.Context, from Lane, slots int, handle func(*Lease)) error {
	return q.newLane(from, slots, -1, handle).run(ctx)
}

// Take is [Queue.Consume] for at most n leases: it returns when they have been
// handed out and handled, or ctx is done, and says how many there were.
func (q *Queue) Take(ctx context.Context, from Lane, n int, handle func(*Lease)) (int, error) {
	l := q.newLane(from, n, n, handle)
	err := l.run(ctx)
	return n - l.left, err
}

func (q *Queue) newLane(from Lane, slots, left int, handle func(*Lease)) *lane {
	return &lane{
		q: q, name: from.String(), slots: slots, left: left, handle: handle,
		inbox: q.nc.NewInbox() + ".", wake: make(chan struct{}, 1), closed: make(chan struct{}),
	}
}

// lane is one run of Consume.
type lane struct {
	q      *Queue
	name   string
	slots  int
	inbox  string // of a pull with its number
	handle func(*Lease)
	wake   chan struct{} // something changed that may allow a pull
	closed chan struct{} // the subscription brings nothing any more
	calls  sync.WaitGroup

	mu    sync.Mutex
	busy  int    // calls of handle
	left  int    // messages that may still be handed out; -1 is without end
	asked int    // messages that pulls may still bring
	pulls []pull // those that bring them, oldest first
	last  uint64 // the newest one's number
	pause bool   // the server refused; wait before the next pull
	gone  bool   // no consumer
}

// A pull is a request for messages. Which one of several a message answers, nobody
// says; what they bring together is known.
type pull struct {
	number uint64
	left   int       // messages it may still bring, if the oldest is answered first
	until  time.Time // from then on it is taken for lost
}

func (l *lane) run(ctx context.Context) error {
	nc := l.q.nc
	sub, err := nc.Subscribe(l.inbox+"*", l.receive)
	if err != nil {
		return fmt.Errorf("queue: subscribe for lane %s: %w", l.name, err)
	}
	// What waits here has a slot already.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return errors.Join(fmt.Errorf("queue: lane %s: %w", l.name, err), sub.Unsubscribe())
	}
	sub.SetClosedHandler(func(string) { close(l.closed) })
	// A new connection's server does not know of the pulls of the old one.
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)

	err = l.pullUntil(ctx, connected)
	l.ebb()

	// Drain: the server stops sending, and what is on its way still comes. It
	// needs the server's answer, which a connection that is lost will not bring.
	if dErr := sub.Drain(); dErr == nil {
		select {
		case <-l.closed:
		case <-time.After(drainWait):
		}
	}
	l.calls.Wait()
	return err
}

func (l *lane) pullUntil(ctx context.Context, connected chan nats.Status) error {
	timer := time.NewTimer(pullExpires)
	defer timer.Stop()
	for {
		l.mu.Lock()
		now := time.Now()
		for len(l.pulls) > 0 && now.After(l.pulls[0].until) {
			l.end(0, l.pulls[0].left)
		}
		gone, pause, done := l.gone, l.pause, l.left == 0
		l.pause = false
		free := l.slots - l.busy - l.asked
		// Not for every slot that becomes free: a request costs the server as
		// much as a message.
		want := 0
		if !pause && free > 0 && (l.asked == 0 || free >= (l.slots+3)/4) {
			want = free
			if l.left >= 0 {
				want = min(want, l.left-l.asked)
			}
			l.begin(want, now.Add(pullExpires+pullGrace))
		}
		number, next := l.last, pullExpires
		if len(l.pulls) > 0 {
			next = time.Until(l.pulls[0].until)
		}
		l.mu.Unlock()

		switch {
		case gone:
			return ErrNoLane
		case done:
			return nil
		case pause:
			next = pullRetry
		case want > 0:
			if err := l.pull(number, want); err != nil {
				return err
			}
		}
		timer.Reset(max(next, time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
			if pause {
				// Do not let arrivals shorten the pause to nothing.
				select {
				case <-ctx.Done():
					return nil
				case <-timer.C:
				}
			}
		case <-timer.C:
		case <-connected:
			l.mu.Lock()
			l.asked, l.pulls = 0, nil
			l.mu.Unlock()
		}
	}
}

// ebb waits while messages that were asked for keep coming. The server counts a
// message as handed out before it looks whether anybody listens: one that it
// takes up while the subscription ends would have used a try for nothing.
func (l *lane) ebb() {
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	end := time.After(drainWait)
	for last := -1; ; {
		l.mu.Lock()
		asked, gone := l.asked, l.gone
		l.mu.Unlock()
		if gone || asked == 0 || asked == last {
			return
		}
		last = asked
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}

// begin notes a pull; the lock is held.
func (l *lane) begin(n int, until time.Time) {
	l.last++
	l.pulls = append(l.pulls, pull{l.last, n, until})
	l.asked += n
}

// end notes that the ith pull brings nothing any more, and lacked so many messages of
// what it had asked for: the others bring the difference. -1 is none of them. The lock
// is held.
func (l *lane) end(i, lacked int) {
	more := -lacked
	if i >= 0 {
		more += l.pulls[i].left
		l.pulls = slices.Delete(l.pulls, i, i+1)
	}
	for len(l.pulls) > 0 && l.pulls[0].left+more <= 0 {
		more += l.pulls[0].left
		l.pulls = slices.Delete(l.pulls, 0, 1)
	}
	if len(l.pulls) > 0 {
		l.pulls[0].left += more
	}
	l.asked = 0
	for _, p := range l.pulls {
		l.asked += p.left
	}
}

// brought notes that a message came; the lock is held.
func (l *lane) brought() { l.end(-1, 1) }

func (l *lane) pull(number uint64, n int) error {
	req, err := json.Marshal(struct {
		Batch   int           `json:"batch"`
		Expires time.Duration `json:"expires"`
	}{n, pullExpires})
	if err != nil {
		return fmt.Errorf("queue: pull from lane %s: %w", l.name, err)
	}
	err = l.q.nc.PublishRequest(topology.NextSubject(topology.StreamDeliveries, l.name), l.inbox+strconv.FormatUint(number, 10), req)
	if err != nil && !errors.Is(err, nats.ErrReconnectBufExceeded) {
		return fmt.Errorf("queue: pull from lane %s: %w", l.name, err)
	}
	return nil
}

// receive gets messages and the server's word on pulls, one after another.
func (l *lane) receive(msg *nats.Msg) {
	if msg.Reply == "" || len(msg.Data) == 0 && msg.Header.Get("Status") != "" {
		l.status(msg)
		return
	}
	lease, err := newLease(l.q.nc, msg)
	if err != nil {
		// Written by hand, and never to be delivered: leave nothing behind that
		// comes again and again.
		l.q.log.Error("a message on DELIVERIES is no delivery; it is removed", "err", err, "subject", msg.Subject)
		if err := msg.Respond([]byte("+TERM not a delivery")); err != nil {
			l.q.log.Error("remove it", "err", err)
		}
		l.mu.Lock()
		l.brought()
		l.mu.Unlock()
		l.nudge()
		return
	}
	l.mu.Lock()
	l.brought()
	l.busy++
	refill := l.refill()
	if l.left > 0 {
		l.left--
		refill = refill || l.left == 0
	}
	l.mu.Unlock()
	lease.lane = l
	l.calls.Go(func() {
		defer lease.Leave()
		l.handle(lease)
	})
	if refill {
		l.nudge()
	}
}

func (l *lane) release() {
	l.mu.Lock()
	l.busy--
	refill := l.refill()
	l.mu.Unlock()
	if refill {
		l.nudge()
	}
}

// refill reports whether a pull is due; the lock is held.
func (l *lane) refill() bool {
	free := l.slots - l.busy - l.asked
	return free > 0 && (l.asked == 0 || free >= (l.slots+3)/4)
}

// status reads what the server says of a pull instead of a message (see "Pull
// requests" in ADR-13 of nats-architecture-and-design).
func (l *lane) status(msg *nats.Msg) {
	code := msg.Header.Get("Status")
	if code == "100" {
		return // a heartbeat
	}
	number, _ := strconv.ParseUint(strings.TrimPrefix(msg.Subject, l.inbox), 10, 64) // none has 0
	l.mu.Lock()
	i := slices.IndexFunc(l.pulls, func(p pull) bool { return p.number == number })
	if lacked, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages")); err == nil {
		l.end(i, lacked)
	} else if i >= 0 {
		l.end(i, l.pulls[i].left)
	}
	switch code {
	case "408", "404": // ran out, or nothing there
	case "503":
		l.gone = true
	default: // 409: deleted, limits, leadership
		l.pause = true
		if d := msg.Header.Get("Description"); d == "Consumer Deleted" {
			l.gone = true
		}
	}
	l.mu.Unlock()
	l.nudge()
}

func (l *lane) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Depth is the state of the whole queue.
type Depth struct {
	Messages uint64
	Bytes    uint64
	// Oldest is when the oldest delivery was queued; zero when there is none.
	Oldest time.Time
}

// Depth returns how much is queued.
func (q *Queue) Depth(ctx context.Context) (Depth, error) {
	s, err := q.js.Stream(ctx, topology.StreamDeliveries)
	if err != nil {
		return Depth{}, fmt.Errorf("queue: depth: %w", err)
	}
	st := s.CachedInfo().State
	d := Depth{Messages: st.Msgs, Bytes: st.Bytes}
	if st.Msgs > 0 {
		d.Oldest = st.FirstTime
	}
	return d, nil
}
