package meta

import (
	"flag"
	"math/rand"
	"testing"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mooring-io/mooring/core/meta/store"
	"github.com/mooring-io/mooring/core/meta/store/etcd"
	"github.com/mooring-io/mooring/core/quorum/quorumtest"
)

var tib = flag.Int("tib", 128, "how many TiB of volumes TestCapacityOfEtcd fills etcd with")

// TestCapacityOfEtcd writes the extents of volumes to a real etcd, twice, and measures its
// database: 1 PiB must fit into 1 GiB. It is the worst that can be: every extent has three
// replicas on stores, and a generation, that no other extent of its key has.
//
//	go test ./core/meta -run TestCapacityOfEtcd -v -tib 1024
func TestCapacityOfEtcd(t *testing.T) {
	if testing.Short() {
		*tib = 16
	}
	c := quorumtest.Start(t, 1).Client()
	s, err := etcd.Open(t.Context(), etcd.Options{Client: c, Prefix: "mooring/" + uuid.NewString() + "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const extentsPerTiB = (1 << 40) / (256 << 20)
	rnd := rand.New(rand.NewSource(1))
	stores := manyStores(31 * 4)
	volumes := manyStores(max(*tib/8, 1)) // of 8 TiB
	var rev store.Revision
	written := 0
	for round := range 2 {
		for i := 0; i < *tib*extentsPerTiB/ChunkExtents; {
			var x store.Txn
			for ; i < *tib*extentsPerTiB/ChunkExtents && x.Size() < bytesPerTxn; i++ {
				var ch chunk
				for j := range ch {
					p := rnd.Perm(len(stores))
					ch[j] = Extent{Changes: Generation(1 + rnd.Intn(1<<14) + round), Set: []Member{
						{stores[p[0]], uint64(1 + rnd.Intn(1000))}, {stores[p[1]], uint64(1 + rnd.Intn(1000))}, {stores[p[2]], uint64(1 + rnd.Intn(1000))},
					}}
				}
				const perVolume = 8 * extentsPerTiB / ChunkExtents
				x.Put = append(x.Put, store.Put{Key: keyChunk(volumes[i/perVolume], uint32(i%perVolume)), Value: ch.append(nil)})
			}
			written += x.Size()
			if rev, err = s.Commit(t.Context(), x); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 { // what is kept of history, at the least: nothing of before
			if _, err := c.Compact(t.Context(), int64(rev), clientv3.WithCompactPhysical()); err != nil {
				t.Fatal(err)
			}
		}
	}
	st, err := c.Status(t.Context(), c.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	scale := float64(1024) / float64(*tib) / (1 << 20)
	t.Logf("%d TiB of volumes; for 1 PiB: %.0f MiB of records, database %.0f MiB with every record written twice, %.0f MiB in use",
		*tib, float64(written)/2*scale, float64(st.DbSize)*scale, float64(st.DbSizeInUse)*scale)
	if float64(st.DbSize)*scale > 1024 {
		t.Fatal("1 PiB does not fit into 1 GiB")
	}
}
