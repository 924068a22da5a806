//! Keys and values of rows in blocks of [`POSITIONS`] positions that rows may share.

/// Positions of a block.
pub(super) const POSITIONS: usize = 32;

/// Values of a head are filled up with zeros to a multiple of this, so that whole vectors are read.
const FILL: usize = 16;

/// What a block holds of one position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Shape {
    /// Width of a head's values with their filling.
    pub(super) fn value_width(self) -> usize {
        self.head_dim.next_multiple_of(FILL)
    }

    fn head(self) -> usize {
        POSITIONS * (self.head_dim + self.value_width())
    }

    fn block(self) -> usize {
        self.layers * self.kv_heads * self.head()
    }
}

/// Blocks that come and go: those given back are used again, new ones are made when none is left.
#[derive(Debug)]
pub(super) struct Pool {
    shape: Shape,
    blocks: Vec<Vec<f32>>,
    references: Vec<u32>,
    free: Vec<usize>,
}

/// The blocks of one row, first positions first.
#[derive(Debug, Default)]
pub(super) struct Table {
    blocks: Vec<usize>,
    length: usize,
}

impl Table {
    /// Positions that are filled.
    pub(super) fn length(&self) -> usize {
        self.length
    }
}

impl Pool {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, blocks: Vec::new(), references: Vec::new(), free: Vec::new() }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    fn take(&mut self) -> usize {
        let block = self.free.pop().unwrap_or_else(|| {
            self.blocks.push(vec![0.0; self.shape.block()]);
            self.references.push(0);
            self.blocks.len() - 1
        });
        self.references[block] = 1;
        block
    }

    /// Adds `n` positions to a row. A block that others read too is copied before the row writes to it.
    pub(super) fn extend(&mut self, table: &mut Table, n: usize) {
        let written = table.length / POSITIONS;
        if let Some(&last) = table.blocks.get(written)
            && self.references[last] > 1
        {
            let own = self.take();
            let mut copy = std::mem::take(&mut self.blocks[own]);
            copy.copy_from_slice(&self.blocks[last]);
            self.blocks[own] = copy;
            self.references[last] -= 1;
            table.blocks[written] = own;
        }
        table.length += n;
        while table.blocks.len() * POSITIONS < table.length {
            table.blocks.push(self.take());
        }
    }

    /// A row that starts with all positions of another.
    pub(super) fn fork(&mut self, table: &Table) -> Table {
        for block in &table.blocks {
            self.references[*block] += 1;
        }
        Table { blocks: table.blocks.clone(), length: table.length }
    }

    /// Gives a row's blocks back.
    pub(super) fn release(&mut self, table: &Table) {
        for block in &table.blocks {
            self.references[*block] -= 1;
            if self.references[*block] == 0 {
                self.free.push(*block);
            }
        }
    }

    /// Blocks in use.
    #[cfg(test)]
    fn used(&self) -> usize {
        self.blocks.len() - self.free.len()
    }

    fn place(&self, layer: usize, head: usize) -> usize {
        (layer * self.shape.kv_heads + head) * self.shape.head()
    }

    /// One head's key and value at a position of a row.
    pub(super) fn write(&mut self, table: &Table, position: usize, at: [usize; 2], kv: [&[f32]; 2]) {
        let [layer, head] = at;
        let from = self.place(layer, head);
        let width = self.shape.value_width();
        let slot = position % POSITIONS;
        let block = &mut self.blocks[table.blocks[position / POSITIONS]][from..];
        let (keys, values) = block.split_at_mut(self.shape.head_dim * POSITIONS);
        for (line, k) in keys.chunks_exact_mut(POSITIONS).zip(kv[0]) {
            line[slot] = *k;
        }
        values[slot * width..][..kv[1].len()].copy_from_slice(kv[1]);
    }

    /// Keys `[head_dim, POSITIONS]` and values `[POSITIONS, value_width]` of one block of a row.
    pub(super) fn read(&self, table: &Table, block: usize, at: [usize; 2]) -> (&[f32], &[f32]) {
        let from = self.place(at[0], at[1]);
        let part = &self.blocks[table.blocks[block]][from..from + self.shape.head()];
        part.split_at(self.shape.head_dim * POSITIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(Shape { layers: 2, kv_heads: 1, head_dim: 3 })
    }

    fn key(pool: &Pool, table: &Table, position: usize) -> Vec<f32> {
        let keys = pool.read(table, position / POSITIONS, [1, 0]).0;
        (0..3).map(|d| keys[d * POSITIONS + position % POSITIONS]).collect()
    }

    #[test]
    fn forks_share_full_blocks_and_copy_the_one_they_write() {
        let mut pool = pool();
        let mut prompt = Table::default();
        pool.extend(&mut prompt, 40);
        for p in 0..40 {
            pool.write(&prompt, p, [1, 0], [&[p as f32; 3], &[-(p as f32); 3]]);
        }
        let mut rows: Vec<Table> = (0..3).map(|_| pool.fork(&prompt)).collect();
        assert_eq!(pool.used(), 2);
        for (i, row) in rows.iter_mut().enumerate() {
            pool.extend(row, 1);
            pool.write(row, 40, [1, 0], [&[100.0 + i as f32; 3], &[0.0; 3]]);
        }
        // The first block is one for all, the second is there four times.
        assert_eq!(pool.used(), 5);
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(key(&pool, row, 40), [100.0 + i as f32; 3]);
            assert_eq!(key(&pool, row, 39), [39.0; 3]);
            assert_eq!(pool.read(row, 1, [1, 0]).1[7 * 16..][..4], [-39.0, -39.0, -39.0, 0.0]);
            pool.release(row);
        }
        assert_eq!(pool.used(), 2);
        pool.release(&prompt);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn a_row_at_the_end_of_a_block_takes_a_new_one() {
        let mut pool = pool();
        let mut prompt = Table::default();
        pool.extend(&mut prompt, POSITIONS);
        let mut row = pool.fork(&prompt);
        pool.extend(&mut row, 1);
        assert_eq!((pool.used(), row.length(), prompt.length()), (2, 33, 32));
        pool.release(&prompt);
        pool.release(&row);
        assert_eq!(pool.used(), 0);
    }
}
