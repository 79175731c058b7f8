package dedup_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/dedup/redistest"
)

const hour = time.Hour

func BenchmarkRedisClaim(b *testing.B) {
	benchmarkClaim(b, dedup.NewRedis(redistest.Start(b).Client(), ""))
}

func BenchmarkKVClaim(b *testing.B) {
	benchmarkClaim(b, newKV(b))
}

// benchmarkClaim claims fresh keys from 64 goroutines.
func benchmarkClaim(b *testing.B, c dedup.Claims) {
	keys := make([]string, b.N)
	for i := range keys {
		keys[i] = fmt.Sprintf("delivery:ev_01J%020d:orders-erp:1", i)
	}
	next := make(chan string, len(keys))
	for _, k := range keys {
		next <- k
	}
	close(next)
	b.ReportAllocs()
	b.SetParallelism(32) // times GOMAXPROCS, 2 where this was measured
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Claim(b.Context(), <-next, "123456", hour); err != nil {
				b.Error(err)
			}
		}
	})
}
