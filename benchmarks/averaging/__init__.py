"""What averaging costs against one all-reduce of the same bytes."""
