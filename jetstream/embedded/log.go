package embedded

import (
	"fmt"
	"log/slog"
	"sync"
)

// logger passes the server's log on, a level down: its notices are our details.
type logger struct {
	log  *slog.Logger
	mu   sync.Mutex
	last string
	over bool // the server gave up
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l *logger) Debugf(format string, v ...any)  {}
func (l *logger) Tracef(format string, v ...any)  {}
func (l *logger) Errorf(format string, v ...any)  { l.error(fmt.Sprintf(format, v...)) }

func (l *logger) Fatalf(format string, v ...any) {
	l.error(fmt.Sprintf(format, v...))
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
}

// gaveUp reports whether the server said that it cannot run.
func (l *logger) gaveUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

func (l *logger) error(msg string) {
	l.mu.Lock()
	l.last = msg
	l.mu.Unlock()
	l.log.Error(msg)
}

// lastError returns what the server said last of what went wrong.
func (l *logger) lastError() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == "" {
		return "it gave no reason in time"
	}
	return l.last
}
