// Package streamtest helps tests of what works with JetStream.
package streamtest
