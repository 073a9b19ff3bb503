//! The published long-tailed lists of photographs: ImageNet-LT and Places-LT (Liu et al., "Large-Scale Long-Tailed Recognition in an
//! Open World", CVPR 2019) and iNaturalist 2018 (Van Horn et al., CVPR 2018), in the form in which nearly all papers read them.

use std::path::{Path, PathBuf};

use super::images::Normalise;
use super::listing::Listing;
use super::store::Subset;
use crate::{Error, Result};

/// A published set of lists.
#[derive(Debug, PartialEq)]
pub struct Published {
    /// What papers call it.
    pub title: &'static str,
    /// Training list.
    pub train: &'static str,
    /// Validation list; where there is none, the test list is what papers validate on.
    pub val: Option<&'static str>,
    /// Test list.
    pub test: &'static str,
    /// Classes, all of which are in every list.
    pub classes: usize,
    /// Images of the training list.
    pub images: usize,
    /// Images of the largest and of the smallest training class.
    pub extremes: [usize; 2],
    /// Validation images of every class.
    pub val_each: usize,
    /// Test images of every class.
    pub test_each: usize,
    /// Where mean and standard deviation come from.
    pub normalise: Normalise,
}

/// ImageNet-LT.
pub const IMAGENET_LT: Published = Published {
    title: "ImageNet-LT",
    train: "ImageNet_LT_train.txt",
    val: Some("ImageNet_LT_val.txt"),
    test: "ImageNet_LT_test.txt",
    classes: 1000,
    images: 115_846,
    extremes: [1280, 5],
    val_each: 20,
    test_each: 50,
    normalise: Normalise::Imagenet,
};

/// Places-LT.
pub const PLACES_LT: Published = Published {
    title: "Places-LT",
    train: "Places_LT_train.txt",
    val: Some("Places_LT_val.txt"),
    test: "Places_LT_test.txt",
    classes: 365,
    images: 62_500,
    extremes: [4980, 5],
    val_each: 20,
    test_each: 100,
    normalise: Normalise::Imagenet,
};

/// iNaturalist 2018. Its test images were never published with labels: papers report the validation list.
pub const INATURALIST_2018: Published = Published {
    title: "iNaturalist 2018",
    train: "iNaturalist18_train.txt",
    val: None,
    test: "iNaturalist18_val.txt",
    classes: 8142,
    images: 437_513,
    extremes: [1000, 2],
    val_each: 0,
    test_each: 3,
    normalise: Normalise::Inat2018,
};

impl Published {
    /// The lists in a folder: training, validation, test.
    pub fn lists(&self, folder: &Path) -> (PathBuf, Option<PathBuf>, PathBuf) {
        (folder.join(self.train), self.val.map(|name| folder.join(name)), folder.join(self.test))
    }

    /// Fails unless a list has the published one's numbers of images and classes.
    ///
    /// # Errors
    ///
    /// Names the first difference.
    pub fn check(&self, subset: Subset, list: &Path, listing: &Listing) -> Result<()> {
        let differs = |what: String| {
            let what = format!("{what}: this is not the published list of {}", self.title);
            Err(Error::file(list, format!("{what}; `prepare images --train-list` takes any list")))
        };
        let each = match subset {
            Subset::Train => 0,
            Subset::Val => self.val_each,
            Subset::Test => self.test_each,
        };
        let (images, expected) = (listing.labels.len(), if each > 0 { each * self.classes } else { self.images });
        if images != expected {
            return differs(format!("lists {images} images, must list {expected}"));
        }
        let mut counts = vec![0usize; self.classes];
        for &label in &listing.labels {
            match counts.get_mut(label as usize) {
                Some(count) => *count += 1,
                None => return differs(format!("has label {label}, must have 0 to {}", self.classes - 1)),
            }
        }
        if let Some(class) = counts.iter().position(|&n| n == 0) {
            return differs(format!("has no image with label {class}, must have all of 0 to {}", self.classes - 1));
        }
        if each > 0 {
            return match counts.iter().position(|&n| n != each) {
                Some(class) => differs(format!("has {} images of class {class}, must have {each}", counts[class])),
                None => Ok(()),
            };
        }
        // Neither is missing, as no class is empty.
        let [largest, smallest] = [counts.iter().max(), counts.iter().min()].map(|n| n.copied().unwrap_or(0));
        for (what, found, expected) in
            [("largest", largest, self.extremes[0]), ("smallest", smallest, self.extremes[1])]
        {
            if found != expected {
                return differs(format!("its {what} class has {found} images, must have {expected}"));
            }
        }
        Ok(())
    }
}
