package stream

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// failures are JetStream operations that failed:
//
//	posthorn_jetstream_errors_total{operation}  publish (each try), get, read, bucket or claim (each try)
//
// It belongs to the process, as the operations are those of functions that nobody
// makes anew; nothing is counted but what an operator should see.
var failures = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "posthorn_jetstream_errors_total",
	Help: "JetStream operations that failed, by operation: publish (each try), get (of one message), read (of many), bucket (of a KV bucket) and claim (each try).",
}, []string{"operation"})

// Looked up once, and shown as 0 from the beginning.
var (
	failedPublishes = failures.WithLabelValues("publish")
	failedGets      = failures.WithLabelValues("get")
	failedReads     = failures.WithLabelValues("read")
	failedBuckets   = failures.WithLabelValues("bucket")
	failedClaims    = failures.WithLabelValues("claim")
)

// BucketFailed counts an error of a KV bucket and returns it.
func BucketFailed(err error) error { return failed(failedBuckets, err) }

// ClaimFailed counts a try at a claim that failed, and returns its error.
func ClaimFailed(err error) error { return failed(failedClaims, err) }

// Failures returns the counter of the operations that failed in this process, for a
// registry.
func Failures() prometheus.Collector { return failures }

// failed counts an error and returns it. What is an answer is not counted: that there
// is no such message, or that a condition does not hold; nor who gave up waiting.
func failed(of prometheus.Counter, err error) error {
	if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, context.Canceled) || WrongSequence(err) || DuplicateInBatch(err) {
		return err
	}
	of.Inc()
	return err
}
