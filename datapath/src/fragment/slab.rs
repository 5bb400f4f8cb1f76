//! Room for values, taken once.

/// Values at places that stay theirs until they are removed; room is taken at construction.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            places: (0..capacity).map(|_| None).collect(),
            free: (0..capacity).rev().collect(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.places.len()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.places.get(at)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.places.get_mut(at)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }

    /// Gives the value back if there is no room.
    pub(super) fn insert(&mut self, value: T) -> Result<usize, T> {
        let Some(at) = self.free.pop() else {
            return Err(value);
        };
        match self.places.get_mut(at) {
            Some(place) => {
                *place = Some(value);
                Ok(at)
            }
            None => Err(value),
        }
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<T> {
        let value = self.places.get_mut(at)?.take()?;
        self.free.push(at);
        Some(value)
    }
}
