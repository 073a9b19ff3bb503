//! The method: mixtures, class weights, the three losses and their schedule.
