package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// result is what a sender did.
type result struct {
	begun    time.Time
	took     time.Duration
	accepted int
}

// load is what a sender is to do: for so long, in a closed loop or, with a rate
// above 0, so many events a second. Its number tells its events from those of
// the loads before it.
type load struct {
	number   int
	duration time.Duration
	rate     int
}

// A sender publishes. It fails if anything is refused.
type sender func(ctx context.Context, l load) (result, error)

// A benchConn is one connection of a sender.
type benchConn interface {
	// send returns once the next event may be sent: with one event in flight a
	// connection, when this one is answered.
	send(body []byte) error
	// close waits for what is unanswered.
	close() error
}

const (
	benchHead = `{"run":"%04d","seq":"%010d","sent":"%020d","pad":"`
	// Where the numbers of benchHead are.
	runAt, seqAt, sentAt, padAt = 8, 21, 41, 70
	// minBenchSize is the least --size: the numbers and the end of the document.
	minBenchSize = padAt + len(`"}`)
)

// benchBody returns an event of size bytes that carries the load it belongs to,
// its number in it, and when it was sent.
func benchBody(size, run int, seq int64) []byte {
	body := fmt.Appendf(make([]byte, 0, size), benchHead, run, seq, time.Now().UnixNano())
	for len(body) < size-len(`"}`) {
		body = append(body, 'x')
	}
	return append(body, `"}`...)
}

// readBenchBody is the reverse of [benchBody].
func readBenchBody(body []byte) (run, seq int, sent int64, ok bool) {
	if len(body) < minBenchSize || !bytes.HasPrefix(body, []byte(benchHead[:runAt])) {
		return 0, 0, 0, false
	}
	run, err1 := strconv.Atoi(string(body[runAt : runAt+4]))
	seq, err2 := strconv.Atoi(string(body[seqAt : seqAt+10]))
	sent, err3 := strconv.ParseInt(string(body[sentAt:sentAt+20]), 10, 64)
	return run, seq, sent, errors.Join(err1, err2, err3) == nil
}

// each runs one loop a connection. At a rate, the connections take turns.
func each(ctx context.Context, o *benchOptions, l load, open func(ctx context.Context) (benchConn, error)) (result, error) {
	// The first connection that fails ends them all.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns := make([]benchConn, o.connections)
	for i := range conns {
		c, err := open(ctx)
		if err != nil {
			return result{}, err
		}
		conns[i] = c
	}
	r := result{begun: time.Now()}
	due := make(chan struct{})
	var seq, accepted atomic.Int64
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			n, err := loop(ctx, c, o, l, r.begun, due, &seq)
			accepted.Add(n)
			if err != nil {
				cancel(err)
			}
		})
	}
	if l.rate > 0 {
		pace(ctx, l, r.begun, due)
	}
	close(due)
	wg.Wait()
	r.took, r.accepted = time.Since(r.begun), int(accepted.Load())
	return r, context.Cause(ctx)
}

// loop sends over one connection, and returns how many events were accepted.
func loop(ctx context.Context, c benchConn, o *benchOptions, l load, begun time.Time, due <-chan struct{}, seq *atomic.Int64) (int64, error) {
	var n int64
	for ctx.Err() == nil {
		if l.rate > 0 {
			if _, more := <-due; !more {
				break
			}
		} else if time.Since(begun) >= l.duration {
			break
		}
		number := seq.Add(1) - 1
		if o.count > 0 && number >= int64(o.count) {
			break
		}
		if err := c.send(benchBody(o.size, l.number, number)); err != nil {
			return n, errors.Join(err, c.close())
		}
		n++
	}
	return n, c.close()
}

// pace hands out turns by the clock, not by the tick before: a late turn does
// not move the ones after it, so the rate holds.
func pace(ctx context.Context, l load, begun time.Time, due chan<- struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; ; i++ {
		at := time.Duration(i) * time.Second / time.Duration(l.rate)
		if at >= l.duration {
			return
		}
		timer.Reset(at - time.Since(begun))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		select {
		case due <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// httpConn is a keep-alive connection. It writes and reads the bytes itself, so
// that the generator takes little of the machine.
type httpConn struct {
	conn net.Conn
	in   *bufio.Reader
	head func(seq int) []byte
	req  []byte
}

// httpSender posts with one request in flight a connection.
func httpSender(addr, path string, o *benchOptions) sender {
	head := httpHead(addr, path, o)
	return httpSenderTo(addr, func(int) []byte { return head }, o)
}

func httpHead(addr, path string, o *benchOptions) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, addr, o.size)
}

// httpSenderTo is [httpSender] with a head for each event, by its number.
func httpSenderTo(addr string, head func(seq int) []byte, o *benchOptions) sender {
	return func(ctx context.Context, l load) (result, error) {
		return each(ctx, o, l, func(ctx context.Context) (benchConn, error) {
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, fmt.Errorf("connect: %w", err)
			}
			context.AfterFunc(ctx, func() { _ = conn.Close() }) // a read that waits ends with ctx
			return &httpConn{conn: conn, in: bufio.NewReader(conn), head: head}, nil
		})
	}
}

func (c *httpConn) send(body []byte) error {
	_, seq, _, _ := readBenchBody(body)
	c.req = append(append(c.req[:0], c.head(seq)...), body...)
	if _, err := c.conn.Write(c.req); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return readAnswer(c.in)
}

func (c *httpConn) close() error {
	_ = c.conn.Close() // everything is answered
	return nil
}

// readAnswer reads an HTTP/1.1 answer with a Content-Length.
func readAnswer(in *bufio.Reader) error {
	status, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	length, err := readHeader(in)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(in, body); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if !strings.HasPrefix(status, "HTTP/1.1 202") {
		return fmt.Errorf("answered %s %s", strings.TrimSpace(status), body)
	}
	return nil
}

// readHeader reads to the empty line and returns the Content-Length.
func readHeader(in *bufio.Reader) (int, error) {
	const name = "content-length:"
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= len("\r\n") {
			return length, nil
		}
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return 0, err
			}
		}
	}
}

// grpcConn is one Publish stream with a window of unanswered events.
type grpcConn struct {
	st     grpc.BidiStreamingClient[posthornv1.PublishRequest, posthornv1.PublishResponse]
	window chan struct{}
	ended  chan struct{} // closed when no answer comes any more
	err    error         // why; set before ended is closed
}

// grpcSender publishes over one stream a connection, inFlight events at a time.
func grpcSender(addr string, o *benchOptions) sender {
	return func(ctx context.Context, l load) (result, error) {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return result{}, fmt.Errorf("connect: %w", err)
		}
		defer func() { _ = conn.Close() }()
		broker := posthornv1.NewEventBrokerClient(conn)
		return each(ctx, o, l, func(ctx context.Context) (benchConn, error) {
			st, err := broker.Publish(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+benchKey))
			if err != nil {
				return nil, fmt.Errorf("open a stream: %w", err)
			}
			c := &grpcConn{st: st, window: make(chan struct{}, o.inFlight), ended: make(chan struct{})}
			go c.receive()
			return c, nil
		})
	}
}

func (c *grpcConn) send(body []byte) error {
	select {
	case c.window <- struct{}{}:
	case <-c.ended:
		return errors.New("the stream ended") // close says why
	}
	err := c.st.Send(&posthornv1.PublishRequest{Event: &posthornv1.Event{
		Type: "bench.event", Source: "bench", Direction: posthornv1.Event_INCOMING, Data: body,
	}})
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// receive reads the answers until the stream ends.
func (c *grpcConn) receive() {
	defer close(c.ended)
	for {
		resp, err := c.st.Recv()
		switch {
		case errors.Is(err, io.EOF):
			if n := len(c.window); n > 0 {
				c.err = fmt.Errorf("the stream ended with %d events unanswered", n)
			}
			return
		case err != nil:
			c.err = fmt.Errorf("read the answer: %w", err)
			return
		case resp.GetRefusal() != nil:
			c.err = fmt.Errorf("refused: %s", resp.GetRefusal().GetMessage())
			return
		}
		<-c.window
	}
}

func (c *grpcConn) close() error {
	_ = c.st.CloseSend() // what came of it is what Recv says
	<-c.ended
	return c.err
}
