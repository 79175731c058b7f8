package transform

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/itchyny/gojq"

	"github.com/posthornhq/posthorn/pkg/event"
)

const (
	// MaxProgram is how long a program may be, in bytes.
	MaxProgram = 16 << 10
	// MaxOutput is how much data a program may make, in bytes.
	MaxOutput = 8 << 20
	// maxSteps bounds a run. It is what a program fails by on any machine, however
	// busy, and is reached after some tenths of a second.
	maxSteps = 4_000_000
	// maxWork bounds a run in what its values are, in bytes, each time that a function
	// goes through the whole of one.
	maxWork = 256 << 20
	// maxTime bounds a run on a machine that is too busy for its steps.
	maxTime = time.Second
)

// ErrTime says that a program was not done in time, which another try may change.
var ErrTime = errors.New("the transformation was not done in time")

var errSteps = fmt.Errorf("the program takes more than %d steps", maxSteps)

// A Program is a compiled one. It may be used by many goroutines at once.
type Program struct {
	text  string
	code  *gojq.Code
	steps int
	work  int
	time  time.Duration
}

// Compile reads a program. Its error says in words, and with the place where there
// is one, what is wrong.
func Compile(text string) (p *Program, err error) {
	if len(text) > MaxProgram {
		return nil, fmt.Errorf("has %d bytes, at most %d are allowed", len(text), MaxProgram)
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("is not UTF-8")
	}
	// What the interpreter does not expect must not take the process with it.
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("cannot be compiled: %v", r)
		}
	}()
	query, err := gojq.Parse(text)
	if err != nil {
		if parse, ok := errors.AsType[*gojq.ParseError](err); ok {
			return nil, fmt.Errorf("%s: %w", place(text, parse.Offset-len(parse.Token)), err)
		}
		return nil, err
	}
	if err := confine(query); err != nil {
		return nil, err
	}
	code, err := gojq.Compile(query, append(guards(), gojq.WithVariables([]string{theRun}))...)
	if err != nil {
		return nil, err
	}
	return &Program{text: text, code: code, steps: maxSteps, work: maxWork, time: maxTime}, nil
}

// place says where an offset is, as editors count.
func place(text string, offset int) string {
	before := text[:min(max(offset, 0), len(text))]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Sprintf("line %d, column %d", line, column)
}

// String returns the program as it was written.
func (p *Program) String() string { return p.text }

// Apply returns what the program makes of an event's data: exactly one value. An
// error that is [ErrTime] or ctx's own may not come again; any other will, with the
// same data.
func (p *Program) Apply(ctx context.Context, contentType string, data []byte) (out []byte, err error) {
	if !event.IsJSON(contentType) {
		return nil, fmt.Errorf("the data is %s, not JSON", contentType)
	}
	in, err := decode(data)
	if err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("the program does what the interpreter cannot: %v", r)
		}
	}()
	limited, cancel := context.WithTimeoutCause(ctx, p.time, ErrTime)
	defer cancel()
	values := p.code.RunWithContext(&meter{Context: limited, left: p.steps}, in, &run{left: p.work})
	value, ok := values.Next()
	if !ok {
		return nil, errors.New("the program made no value, must make one")
	}
	if err, ok := value.(error); ok {
		return nil, failure(err)
	}
	if second, more := values.Next(); more {
		if err, ok := second.(error); ok {
			return nil, failure(err)
		}
		return nil, errors.New("the program made more than one value, must make one; put them into an array")
	}
	if _, err := output.measure(value); err != nil {
		return nil, err
	}
	if out, err = gojq.Marshal(value); err != nil {
		return nil, err
	}
	if len(out) > MaxOutput {
		return nil, fmt.Errorf("the program made %d bytes, at most %d are allowed", len(out), MaxOutput)
	}
	return out, nil
}

// maxDetail bounds the text of a failure, which may hold what error() was given.
const maxDetail = 1 << 10

func failure(err error) error {
	if errors.Is(err, ErrTime) || errors.Is(err, errSteps) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "…"
	}
	return errors.New(text)
}

// A meter is a context that counts down how often it is asked whether it is done, which
// the interpreter does before each step. It is for one run.
type meter struct {
	context.Context
	left int
}

// closed is done from the beginning.
var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Done counts a step.
func (m *meter) Done() <-chan struct{} {
	if m.left--; m.left < 0 {
		return closed
	}
	return m.Context.Done()
}

// Err says which of the limits was reached.
func (m *meter) Err() error {
	if m.left < 0 {
		return errSteps
	}
	return context.Cause(m.Context)
}
