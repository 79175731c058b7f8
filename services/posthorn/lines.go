package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"github.com/posthornhq/posthorn/pkg/client"
)

const (
	// maxLine bounds one line, in bytes: the platform's largest event, in base64.
	maxLine = 16 << 20
	// batchBytes is how many bytes of lines make a batch full.
	batchBytes = 1 << 20
)

// A line is one event of a file.
type line struct {
	number int
	event  client.Event
}

// A linePublisher publishes the lines of a file, some requests at once.
type linePublisher struct {
	client batchPublisher
	flags  *publishFlags
	stderr io.Writer
	bar    progress

	mu                             sync.Mutex
	published, duplicates, refused int
	// firstUnanswered is the first line that was sent without an answer, 0 if
	// there is none.
	firstUnanswered int
}

// run publishes all lines. It stops early only at an error that the other lines
// would meet as well, and then waits for the requests in flight.
func (p *linePublisher) run(ctx context.Context, in io.Reader) error {
	g, stopped := errgroup.WithContext(ctx)
	g.SetLimit(p.flags.parallel)
	var batch []line
	size := 0
	flush := func() {
		if len(batch) == 0 {
			return
		}
		full := batch
		batch, size = nil, 0
		// Under ctx, not under stopped: what is in flight when another request
		// fails is better answered than cut off.
		g.Go(func() error { return p.publish(ctx, full) })
	}
	r := bufio.NewReaderSize(in, 64<<10)
	var readErr error
	for n := 1; stopped.Err() == nil; n++ {
		text, err := readLine(r)
		p.bar.add(len(text) + 1)
		if len(bytes.TrimSpace(text)) > 0 {
			ev, evErr := p.parse(n, text)
			if evErr != nil {
				p.refuse(n, evErr)
			} else {
				batch = append(batch, line{n, ev})
				size += len(text)
			}
		}
		if len(batch) >= p.flags.batch || size >= batchBytes {
			flush()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				readErr = fmt.Errorf("line %d: %w", n, err)
			}
			break
		}
	}
	if stopped.Err() == nil {
		flush()
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return errors.Join(readErr, ctx.Err())
}

// readLine returns a line without its end, and io.EOF with the last.
func readLine(r *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := r.ReadSlice('\n')
		text = append(text, part...)
		if len(text) > maxLine {
			return nil, fmt.Errorf("longer than %d MiB", maxLine>>20)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimRight(text, "\r\n"), err
		}
	}
}

// parse makes an event of a line.
func (p *linePublisher) parse(n int, text []byte) (client.Event, error) {
	ev := p.flags.event
	if ev.IdempotencyKey != "" {
		ev.IdempotencyKey = fmt.Sprintf("%s:%d", ev.IdempotencyKey, n)
	}
	if p.flags.envelopes {
		return parseEnvelope(ev, text)
	}
	if ev.DataContentType == "" && !json.Valid(text) {
		return ev, errors.New("not JSON")
	}
	ev.Data = text
	return ev, nil
}

// parseEnvelope reads a publish request over what the flags say.
func parseEnvelope(ev client.Event, text []byte) (client.Event, error) {
	var env struct {
		Type            *string           `json:"type"`
		Tenant          *string           `json:"tenant"`
		Source          *string           `json:"source"`
		Context         *string           `json:"context"`
		Subject         *string           `json:"subject"`
		Time            *time.Time        `json:"time"`
		DataContentType *string           `json:"dataContentType"`
		DataSchema      *string           `json:"dataSchema"`
		IdempotencyKey  *string           `json:"idempotencyKey"`
		Extensions      map[string]string `json:"extensions"`
		Data            json.RawMessage   `json:"data"`
		DataBase64      []byte            `json:"dataBase64"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&env); err != nil {
		return ev, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return ev, errors.New("there is more than one JSON value")
	}
	if env.Data != nil && env.DataBase64 != nil {
		return ev, errors.New("there are both data and dataBase64")
	}
	for _, f := range []struct{ to, from *string }{
		{&ev.Type, env.Type}, {&ev.Tenant, env.Tenant}, {&ev.Source, env.Source}, {&ev.Context, env.Context},
		{&ev.Subject, env.Subject}, {&ev.DataContentType, env.DataContentType}, {&ev.DataSchema, env.DataSchema},
		{&ev.IdempotencyKey, env.IdempotencyKey},
	} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if env.Time != nil {
		ev.Time = *env.Time
	}
	if env.Extensions != nil {
		ev.Extensions = env.Extensions
	}
	ev.Data = env.Data
	if env.DataBase64 != nil {
		ev.Data = env.DataBase64
		if ev.DataContentType == "" {
			ev.DataContentType = "application/octet-stream"
		}
	}
	return ev, nil
}

// publish sends a batch. Its error is one that the others would meet as well.
func (p *linePublisher) publish(ctx context.Context, batch []line) error {
	events := make([]client.Event, len(batch))
	for i, l := range batch {
		events[i] = l.event
	}
	results, err := p.client.PublishBatch(ctx, events)
	switch {
	case err == nil:
		for i, r := range results {
			p.settle(batch[i].number, r)
		}
		return nil
	case len(batch) == 1 && !p.stops(err):
		p.refuse(batch[0].number, err)
		return nil
	case !p.stops(err):
		// Refused as a whole: one of them is at fault, so each goes alone.
		for _, l := range batch {
			if err := p.publish(ctx, []line{l}); err != nil {
				return err
			}
		}
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.firstUnanswered == 0 || batch[0].number < p.firstUnanswered {
		p.firstUnanswered = batch[0].number
	}
	return err
}

// stops reports whether an error is about more than the events of one request.
func (p *linePublisher) stops(err error) bool {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Status == 404 || e.Status == 405 || !client.IsRefusal(err)
	}
	// Not sent, because an event of it has no form in JSON; or anything else.
	return errors.Is(err, client.ErrUnreachable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func (p *linePublisher) settle(n int, r client.Result) {
	if r.Err != nil {
		p.refuse(n, r.Err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Duplicate {
		p.duplicates++
	} else {
		p.published++
	}
}

// refuse counts a line that was not published and says why.
func (p *linePublisher) refuse(n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused++
	p.bar.clear()
	fmt.Fprintf(p.stderr, "line %d: %s\n", n, oneLine(strings.TrimPrefix(err.Error(), "client: ")))
}

// A progress is a bar on a terminal, or nothing.
type progress struct{ bar *progressbar.ProgressBar }

// progress returns a bar over the bytes of in, if a person is looking.
func (a *app) progress(in io.Reader) progress {
	if !isTerminal(a.stderr) {
		return progress{}
	}
	size := int64(-1) // not known: a pipe
	if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
	}
	return progress{progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(a.stderr),
		progressbar.OptionSetDescription("publishing"),
		progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)}
}

// The bar is decoration: that it cannot be drawn is no reason to stop.

func (p progress) add(bytes int) {
	if p.bar != nil {
		_ = p.bar.Add(bytes)
	}
}

func (p progress) set(n int64) {
	if p.bar != nil {
		_ = p.bar.Set64(n)
	}
}

func (p progress) most(n int64) {
	if p.bar != nil {
		p.bar.ChangeMax64(n)
	}
}

func (p progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

func (p progress) finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
