package amqp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/posthornhq/posthorn/pkg/amqp"
)

// An answer is what the broker says of a message.
type answer struct {
	acked    bool
	returned *amqp091.Return // nil if it was routed
	err      error           // nothing is known
}

// A session is one connection, from when it is made until it is lost.
type session struct {
	conn    *amqp091.Connection
	lost    chan *amqp091.Error
	blocked chan amqp091.Blocking

	mu         sync.Mutex
	publishers map[string]*publisher // by exchange
	why        string                // the broker takes nothing; empty if it does
	over       bool
	wg         sync.WaitGroup
}

func newSession(conn *amqp091.Connection) *session {
	return &session{
		conn: conn, lost: conn.NotifyClose(make(chan *amqp091.Error, 1)), blocked: conn.NotifyBlocked(make(chan amqp091.Blocking, 1)),
		publishers: map[string]*publisher{},
	}
}

// run returns what ended the session: the broker, ctx, or that it is idle.
func (s *session) run(ctx context.Context, every time.Duration, idle func() bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	blocked := s.blocked
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e := <-s.lost:
			return amqp.Reason(e)
		case b, ok := <-blocked:
			if !ok {
				blocked = nil
				continue
			}
			s.setBlocked(b)
		case <-tick.C:
			if idle() {
				return errRetired
			}
		}
	}
}

func (s *session) setBlocked(b amqp091.Blocking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = ""
	if b.Active {
		s.why = b.Reason
		if s.why == "" {
			s.why = "no reason given"
		}
	}
}

// closeTimeout bounds the farewell.
const closeTimeout = 2 * time.Second

// close ends the session and all who publish in it.
func (s *session) close() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	_ = s.conn.CloseDeadline(time.Now().Add(closeTimeout)) // it may be lost
	s.wg.Wait()
}

// publisher returns the one of an exchange, and begins it if there is none.
func (s *session) publisher(exchange string) (*publisher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, errLost
	}
	if s.why != "" {
		return nil, fmt.Errorf("the broker takes no messages: %s", s.why)
	}
	p, ok := s.publishers[exchange]
	if !ok {
		p = &publisher{exchange: exchange, jobs: make(chan *job), done: make(chan struct{}), pending: map[uint64]*job{}}
		s.publishers[exchange] = p
		s.wg.Go(func() {
			err := p.run(s.conn)
			s.mu.Lock()
			delete(s.publishers, exchange)
			s.mu.Unlock()
			p.end(err)
		})
	}
	return p, nil
}

var errLost = errors.New("the connection was lost")

// publish sends a message and waits for its answer.
func (s *session) publish(ctx context.Context, exchange, key string, msg amqp091.Publishing) (answer, error) {
	p, err := s.publisher(exchange)
	if err != nil {
		return answer{}, err
	}
	j := &job{key: key, msg: msg, gone: ctx.Done(), answer: make(chan answer, 1)}
	select {
	case p.jobs <- j:
	case <-p.done:
		return answer{}, p.err
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	}
	select {
	case a := <-j.answer:
		return a, a.err
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	}
}

// A job is a message on its way.
type job struct {
	key      string
	msg      amqp091.Publishing
	gone     <-chan struct{} // nobody waits for it any more
	returned *amqp091.Return
	answer   chan answer
}

// A publisher is the channel of one exchange, in confirm mode.
type publisher struct {
	exchange string
	jobs     chan *job
	done     chan struct{} // closed when it is over, with err set
	err      error

	mu      sync.Mutex
	pending map[uint64]*job // by delivery tag
}

// run publishes until the channel is closed, and returns why it was.
func (p *publisher) run(conn *amqp091.Connection) error {
	ch, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	closed := ch.NotifyClose(make(chan *amqp091.Error, 1))
	// Without buffers: a message that is returned is confirmed right after, by the
	// same goroutine of the library, so here too the return is seen first.
	returns, confirms := ch.NotifyReturn(make(chan amqp091.Return)), ch.NotifyPublish(make(chan amqp091.Confirmation))
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		p.settle(returns, confirms)
	}()
	if err := ch.Confirm(false); err != nil {
		_ = ch.Close()
		<-settled
		return fmt.Errorf("ask for confirmations: %w", err)
	}
	for {
		select {
		case j := <-p.jobs:
			p.write(ch, j)
		case <-settled:
			return amqp.Reason(<-closed)
		}
	}
}

// write sends one message. Only one goroutine does, so the tag is known before.
func (p *publisher) write(ch *amqp091.Channel, j *job) {
	select {
	case <-j.gone:
		return
	default:
	}
	tag := ch.GetNextPublishSeqNo()
	j.msg.Headers[headerPublish] = int64(tag)
	p.mu.Lock()
	p.pending[tag] = j
	p.mu.Unlock()
	// It may wait for the network for as long as the connection lives; those who
	// wait for answers have their own time.
	if _, err := ch.PublishWithDeferredConfirm(p.exchange, j.key, true, false, j.msg); err != nil {
		p.mu.Lock()
		delete(p.pending, tag)
		p.mu.Unlock()
		j.answer <- answer{err: err}
	}
}

// settle hands out answers until the channel is closed.
func (p *publisher) settle(returns <-chan amqp091.Return, confirms <-chan amqp091.Confirmation) {
	for {
		select {
		case r, ok := <-returns:
			if !ok {
				returns = nil
				continue
			}
			tag, _ := r.Headers[headerPublish].(int64)
			p.mu.Lock()
			if j := p.pending[uint64(tag)]; j != nil {
				j.returned = &r
			}
			p.mu.Unlock()
		case c, ok := <-confirms:
			if !ok {
				return
			}
			p.mu.Lock()
			j := p.pending[c.DeliveryTag]
			delete(p.pending, c.DeliveryTag)
			p.mu.Unlock()
			if j != nil {
				j.answer <- answer{acked: c.Ack, returned: j.returned}
			}
		}
	}
}

// end tells all who wait for an answer that there will be none.
func (p *publisher) end(err error) {
	p.err = err
	close(p.done)
	p.mu.Lock()
	defer p.mu.Unlock()
	for tag, j := range p.pending {
		delete(p.pending, tag)
		j.answer <- answer{err: err}
	}
}
