// Package trace tells what happened to events, from what is stored.
//
// It promises to tell what the store, the ledger, the queue and the dead letters
// have, in time order, and bounds what one question reads. What it keeps,
// an index in memory, is for speed alone, and nobody's delivery depends on it.
package trace
