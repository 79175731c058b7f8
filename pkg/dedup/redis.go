package dedup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/posthornhq/posthorn/pkg/errs"
)

// Redis keeps claims in Redis, 7.0 or later (SET with NX and GET).
type Redis struct {
	client redis.UniversalClient
	prefix string
}

var _ Claims = (*Redis)(nil)

// OpenRedis returns a client for a URL such as redis://user:password@host:6379/0,
// set up for claims: calls end with their context, which go-redis leaves off,
// and a server that is away is noticed at the first dial, since commands are
// tried again as a whole. It does not connect; Close it.
func OpenRedis(url string) (*redis.Client, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		// The cause may quote the URL, and the URL a password.
		return nil, errors.New("dedup: the Redis URL is not redis://[user:password@]host:port[/number], rediss://… or unix://…")
	}
	o.ContextTimeoutEnabled = true
	o.DialerRetries = 1
	return redis.NewClient(o), nil
}

// redisLog takes what the Redis library would write to stderr by itself.
type redisLog struct{ log *slog.Logger }

// Printf logs at debug: every failed call of ours is told of where it fails, and the
// library has a line for each connection that it tries.
func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "the Redis client says", "text", fmt.Sprintf(format, v...))
	}
}

var logOnce sync.Once

// LogRedis sends what the Redis library has to say to log. It is for the whole
// process, and the first call holds; call it before [OpenRedis].
func LogRedis(log *slog.Logger) {
	logOnce.Do(func() { redis.SetLogger(redisLog{log}) })
}

// NewRedis returns claims whose keys in Redis begin with prefix. It does not
// connect.
func NewRedis(client redis.UniversalClient, prefix string) *Redis {
	return &Redis{client: client, prefix: prefix}
}

var (
	// takeover sets the key to ARGV[2] for ARGV[3] ms if it is ARGV[1].
	takeover = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`)
	// release deletes the key if it is ARGV[1].
	release = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`)
)

// Claim is one command: SET key owner PX ttl NX GET.
func (r *Redis) Claim(ctx context.Context, key, owner string, ttl time.Duration) (Claim, error) {
	if err := check(owner, ttl); err != nil {
		return Claim{}, fmt.Errorf("dedup: claim: %w", err)
	}
	held, err := r.client.SetArgs(ctx, r.key(key), owner, redis.SetArgs{Mode: string(redis.NX), Get: true, TTL: ttl}).Result()
	if errors.Is(err, redis.Nil) { // there was no value before
		return Claim{Owner: owner, Fresh: true}, nil
	}
	if err != nil {
		return Claim{}, unanswered(ctx, "claim", err)
	}
	return parseValue(held), nil
}

// Done implements [Claims].
func (r *Redis) Done(ctx context.Context, key, owner string, ttl time.Duration) error {
	if err := check(owner, ttl); err != nil {
		return fmt.Errorf("dedup: done: %w", err)
	}
	value := Claim{Owner: owner, Done: true}.value()
	if err := r.client.Set(ctx, r.key(key), value, ttl).Err(); err != nil {
		return unanswered(ctx, "done", err)
	}
	return nil
}

// Takeover implements [Claims].
func (r *Redis) Takeover(ctx context.Context, key string, old Claim, owner string, ttl time.Duration) (bool, error) {
	if err := check(owner, ttl); err != nil {
		return false, fmt.Errorf("dedup: takeover: %w", err)
	}
	taken, err := takeover.Run(ctx, r.client, []string{r.key(key)}, old.value(), owner, ttl.Milliseconds()).Bool()
	if err != nil {
		return false, unanswered(ctx, "takeover", err)
	}
	return taken, nil
}

// Release implements [Claims].
func (r *Redis) Release(ctx context.Context, key, owner string) error {
	if err := check(owner, time.Second); err != nil {
		return fmt.Errorf("dedup: release: %w", err)
	}
	if err := release.Run(ctx, r.client, []string{r.key(key)}, owner).Err(); err != nil {
		return unanswered(ctx, "release", err)
	}
	return nil
}

func (r *Redis) key(key string) string {
	var buf [256]byte
	return string(appendKey(append(buf[:0], r.prefix...), key))
}

// unanswered makes of a backend's error one of kind Unavailable, unless the
// caller itself has gone.
func unanswered(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("dedup: %s: %w", op, context.Cause(ctx))
	}
	return errs.Wrap(fmt.Errorf("dedup: %s: %w", op, err), errs.Unavailable, "the memory of duplicates does not answer; try again later")
}
